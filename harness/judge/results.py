"""From recorded verdicts to ratios, win rates and their sanity floor.

Pointwise ("feedback"): 100 times the sum of the model's scores over the sum of the references'
scores, decoding seeds averaged per prompt first (MiniLLM, arXiv 2306.08543, section 3.1; the paper
does not give its prompt, and ours grades every answer alone). Pairwise ("win_rate"): percent, a tie
is half a win; with both orders a comparison is won only if both agree, and a tie if they do not.

A prompt counts if every verdict it needs is there. Too few such prompts, and the value is missing,
since those that judges refuse or fail on are no random sample.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from kdbench.harness.files.records import Estimate, JudgeScores, Missing
from kdbench.harness.judge.calls import Call, Evaluation
from kdbench.harness.judge.definition import JudgeDefinition
from kdbench.harness.judge.ledger import Ledger
from kdbench.harness.judge.parsing import Verdict, read

DECIMALS = 6
Bounds = tuple[float, float, float]
Cell = Estimate | Missing


class Intervals(NamedTuple):
    """The statistics, given from outside: mean, low and high over prompts."""

    mean: Callable[[Sequence[float]], Bounds]
    ratio: Callable[[Sequence[float], Sequence[float]], Bounds]
    """Of the sum of the first to the sum of the second, prompts drawn together."""


Found = Mapping[str, Verdict]
Prompt = tuple[int, str]


def judge_scores(
    judge: JudgeDefinition,
    evaluation: Evaluation,
    calls: Sequence[Call],
    ledger: Ledger,
    intervals: Intervals,
) -> JudgeScores:
    """All numbers of one evaluation from what is recorded; nothing is asked."""
    found = {}
    for call in calls:
        row = ledger.verdict(call.key)
        if row is not None:  # read again: the response is the record, the state follows from it
            found[call.key] = read(judge, row.status, row.body)
    state_of = {
        call.key: found[call.key].state if call.key in found else "unasked" for call in calls
    }
    table = _Table(judge, evaluation, found, intervals, calls)
    subjects = ("null", "copy", "self") if judge.sanity_prompts else ()
    measure = table.pointwise if judge.mode == "pointwise" else table.pairwise
    sanity: dict[str, Cell] = {}
    for subject in subjects:
        headline = "feedback" if judge.mode == "pointwise" else "win_rate"
        cells = measure(subject)
        sanity |= {
            f"{subject}.{name}": cells[name] for name in (headline, "flip_rate") if name in cells
        }
    record = evaluation.record
    return JudgeScores(
        task=record.task,
        edition=record.edition,
        protocol=record.protocol,
        metrics=measure("model"),
        sanity=sanity,
        states=dict(sorted(Counter(state_of.values()).items())),
    )


class _Table:
    """Verdicts by subject, prompt and decoding seed."""

    def __init__(
        self,
        judge: JudgeDefinition,
        evaluation: Evaluation,
        found: Found,
        intervals: Intervals,
        calls: Iterable[Call],
    ) -> None:
        self._judge = judge
        self._seeds = evaluation.seeds
        self._prompts = [(a.doc_id, a.prompt_hash) for a in evaluation.answers]
        self._found = found
        self._intervals = intervals
        self._calls: dict[tuple[str, Prompt, int | None], list[Call]] = defaultdict(list)
        for call in calls:
            self._calls[call.subject, (call.doc_id, call.prompt_hash), call.seed].append(call)

    def pointwise(self, subject: str) -> dict[str, Cell]:
        """feedback, and the mean scores it is made of."""
        seeds = self._seeds_of(subject)
        base = "model" if subject == "self" else "reference"
        base_seeds = self._seeds_of("self") if subject == "self" else [None]
        mine, theirs = {}, {}
        for prompt in self._asked(subject):
            scores = [self._score(subject, prompt, seed) for seed in seeds]
            against = self._score(base, prompt, base_seeds[0])
            whole = [score for score in scores if score is not None]
            if against is not None and len(whole) == len(scores):
                mine[prompt], theirs[prompt] = whole, against
        why = self._too_few(subject, len(mine))
        names = ("feedback", "score", "reference_score")
        if why:
            return dict.fromkeys(names, Missing(missing=why))
        rows, bases = list(mine.values()), list(theirs.values())
        means = [sum(row) / len(row) for row in rows]
        per_seed = [100 * sum(column) / sum(bases) for column in zip(*rows, strict=True)]
        bounds = self._intervals.ratio(means, bases)
        return {
            "feedback": _estimate([100 * b for b in bounds], len(rows), seeds, per_seed),
            "score": self._mean(rows, seeds),
            "reference_score": self._mean([[value] for value in bases], [None]),
        }

    def pairwise(self, subject: str) -> dict[str, Cell]:
        """win_rate, tie_rate, flip_rate (orders disagree), first_rate (first shown is chosen)."""
        seeds = self._seeds_of(subject)
        columns: dict[str, list[list[float]]] = {"win_rate": [], "tie_rate": [], "flip_rate": []}
        first: list[list[float]] = []
        for prompt in self._asked(subject):
            found = [self._pair(subject, prompt, seed) for seed in seeds]
            whole = [pair for pair in found if pair is not None]
            if len(whole) == len(found):
                for place, values in enumerate(columns.values()):
                    values.append([100 * pair[place] for pair in whole])
                first.append([100 * pair.first for pair in whole])
        why = self._too_few(subject, len(first))
        if len(self._judge.orders) < 2:
            del columns["flip_rate"]
        columns["first_rate"] = first
        if why:
            return {name: Missing(missing=why) for name in columns}
        return {name: self._mean(rows, seeds) for name, rows in columns.items()}

    def _seeds_of(self, subject: str) -> list[int | None]:
        if subject == "model":
            return list(self._seeds)
        return [self._seeds[0]] if subject == "self" else [None]

    def _asked(self, subject: str) -> list[Prompt]:
        seed = self._seeds_of(subject)[0]
        return [prompt for prompt in self._prompts if (subject, prompt, seed) in self._calls]

    def _verdicts(
        self, subject: str, prompt: Prompt, seed: int | None
    ) -> dict[Call, Verdict] | None:
        """Verdict of each call about one answer; None if any is missing."""
        calls = self._calls[subject, prompt, seed]
        found = {call: self._found[call.key] for call in calls if call.key in self._found}
        good = {call: verdict for call, verdict in found.items() if verdict.state == "ok"}
        return good if calls and len(good) == len(calls) else None

    def _score(self, subject: str, prompt: Prompt, seed: int | None) -> float | None:
        verdicts = self._verdicts(subject, prompt, seed)
        if verdicts is None:
            return None
        return sum(v.score or 0.0 for v in verdicts.values()) / len(verdicts)

    def _pair(self, subject: str, prompt: Prompt, seed: int | None) -> "_Pair | None":
        verdicts = self._verdicts(subject, prompt, seed)
        return None if verdicts is None else pair_outcome(verdicts)

    def _too_few(self, subject: str, whole: int) -> str:
        """Why there is no value, or nothing."""
        asked = len(self._asked(subject))
        if whole and whole >= self._judge.min_judged * asked:
            return ""
        needed = {subject}  # and, to divide by, what it is set against
        if self._judge.mode == "pointwise":
            needed.add("model" if subject == "self" else "reference")
        prompts = set(self._asked(subject))
        states = {
            call.key: self._found[call.key].state if call.key in self._found else "unasked"
            for (kind, prompt, _), calls in self._calls.items()
            if kind in needed and prompt in prompts
            for call in calls
        }
        counts = Counter(state for state in states.values() if state != "ok")
        listed = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        return f"only {whole} of {asked} prompts are judged in full ({listed or 'none asked'})"

    def _mean(self, rows: Sequence[Sequence[float]], seeds: Sequence[int | None]) -> Estimate:
        bounds = self._intervals.mean([sum(row) / len(row) for row in rows])
        per_seed = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return _estimate(bounds, len(rows), seeds, per_seed)


class _Pair(NamedTuple):
    win: float
    tie: float
    flip: float
    first: float


def pair_outcome(verdicts: Mapping[Call, Verdict]) -> _Pair:
    """One comparison from its verdicts in every order and repetition.

    Repetitions pair the orders: repetition r of AB with repetition r of BA. Disagreement is a tie.
    """
    repetitions: dict[int, list[int]] = defaultdict(list)
    chose_first = []
    for call, verdict in verdicts.items():
        sign = {"A": 1, "B": -1}.get(verdict.winner or "", 0)
        chose_first.append((sign + 1) / 2)
        repetitions[call.repetition].append(sign if call.order == "AB" else -sign)
    outcomes = [signs[0] if len(set(signs)) == 1 else 0 for signs in repetitions.values()]
    n = len(outcomes)
    return _Pair(
        win=sum((sign + 1) / 2 for sign in outcomes) / n,
        tie=sum(sign == 0 for sign in outcomes) / n,
        flip=sum(len(set(signs)) > 1 for signs in repetitions.values()) / n,
        first=sum(chose_first) / len(chose_first),
    )


def _estimate(
    bounds: Sequence[float], prompts: int, seeds: Sequence[int | None], per_seed: Sequence[float]
) -> Estimate:
    mean, low, high = bounds
    return Estimate(
        mean=mean,
        low=round(low, DECIMALS),
        high=round(high, DECIMALS),
        n_prompts=prompts,
        seeds=[seed for seed in seeds if seed is not None],
        per_seed=[float(value) for value in per_seed],
    )
