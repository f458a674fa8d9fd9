"""From recorded verdicts to ratios, win rates and their sanity floor.

Pointwise ("feedback"): 100 times the sum of the model's scores over the sum of the references'
scores, decoding seeds averaged per prompt first (MiniLLM, arXiv 2306.08543, section 3.1; the paper
does not give its prompt, and ours grades every answer alone). Pairwise ("win_rate"): percent, a tie
is half a win; with both orders a comparison is won only if both agree, and a tie if they do not.

A prompt counts if every verdict it needs is there. Too few such prompts, and the value is missing,
since those that judges refuse or fail on are no random sample.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kdbench.harness import stats
from kdbench.harness.files.records import Estimate, JudgeScores, Missing
from kdbench.harness.judge.calls import Answered, Call
from kdbench.harness.judge.definition import JudgeDefinition
from kdbench.harness.judge.parsing import Verdict, read
from kdbench.harness.judge.verdict_log import VerdictLog

Cells = dict[str, Estimate | Missing]
Values = tuple[float, ...]
"""What the judge says of one text: its score, or its `Rates`."""
Seeds = Sequence[int | None]
"""Decoding seeds; None stands for a text that has none, as a reference."""


def judge_scores(
    judge: JudgeDefinition, answered: Answered, calls: Sequence[Call], log: VerdictLog
) -> JudgeScores:
    """All numbers of one evaluation from what is recorded; nothing is asked."""
    # read again: the response is the record, the state follows from it
    rows = {call.key: log.verdict(call.key) for call in calls}
    verdicts = {key: read(judge, row.status, row.body) for key, row in rows.items() if row}
    table = _Table(judge, answered, calls, verdicts)
    alone = judge.mode == "pointwise"
    shown = ("feedback",) if alone else ("win_rate", "flip_rate")
    subjects = ("null", "self") if alone else ("null", "copy", "self")
    floors = {subject: table.cells(subject) for subject in subjects}
    return JudgeScores(
        task=answered.record.task,
        edition=answered.record.edition,
        protocol=answered.record.protocol,
        metrics=table.cells("model"),
        sanity={
            f"{subject}.{name}": cells[name]
            for subject, cells in floors.items()
            for name in shown
            if judge.sanity_prompts and name in cells
        },
        states=dict(sorted(table.states(rows).items())),
    )


class Rates(NamedTuple):
    """One comparison, from 0 to 1: won, tied, orders disagree, the text shown first is chosen."""

    win_rate: float
    tie_rate: float
    flip_rate: float
    first_rate: float


class _Table:
    """Verdicts by subject, prompt and decoding seed."""

    def __init__(
        self,
        judge: JudgeDefinition,
        answered: Answered,
        calls: Sequence[Call],
        verdicts: Mapping[str, Verdict],
    ) -> None:
        self._judge = judge
        self._verdicts = verdicts
        own: Seeds = answered.seeds
        self._seeds: dict[str, Seeds] = {"model": own, "self": own[:1]}
        self._prompts = [answers.place for answers in answered.answers]
        self._calls: dict[tuple[str, tuple[int, str], int | None], list[Call]] = defaultdict(list)
        for call in calls:
            self._calls[call.subject, (call.doc_id, call.prompt_hash), call.seed].append(call)

    def states(self, keys: Iterable[str]) -> Counter[str]:
        """How many questions are in which state."""
        return Counter(self._verdicts[k].state if k in self._verdicts else "unasked" for k in keys)

    def cells(self, subject: str) -> Cells:
        """Pointwise: feedback, and the mean scores it is made of. Pairwise: `Rates`, in percent."""
        seeds = self._seeds.get(subject, [None])
        asked = [p for p in self._prompts if (subject, p, seeds[0]) in self._calls]
        pointwise = self._judge.mode == "pointwise"
        needed = [(subject, seed) for seed in seeds]
        if pointwise:  # set against the reference, or one round of repetitions against another
            base = "model" if subject == "self" else "reference"
            needed.append((base, self._seeds["self"][0] if subject == "self" else None))
        found = [[self._value(who, prompt, seed) for who, seed in needed] for prompt in asked]
        whole = [[value for value in row if value] for row in found if all(row)]
        names = ["feedback", "score", "reference_score"] if pointwise else list(Rates._fields)
        if len(self._judge.orders) < 2:
            names = [name for name in names if name != "flip_rate"]
        if not whole or len(whole) < self._judge.min_judged * len(asked):
            why = self._too_few({who for who, _ in needed}, asked, len(whole))
            return dict.fromkeys(names, Missing(missing=why))
        if not pointwise:
            rates = [[Rates(*value)._asdict() for value in row] for row in whole]
            return {n: _mean([[100 * v[n] for v in row] for row in rates], seeds) for n in names}
        scores = [[value[0] for value in row] for row in whole]
        rows, bases = [row[:-1] for row in scores], [row[-1] for row in scores]
        ratio = stats.bootstrap_ratio([sum(row) / len(row) for row in rows], bases)
        per_seed = [100 * sum(column) / sum(bases) for column in zip(*rows, strict=True)]
        return {
            "feedback": _estimate([100 * bound for bound in ratio], len(rows), seeds, per_seed),
            "score": _mean(rows, seeds),
            "reference_score": _mean([[base] for base in bases], [None]),
        }

    def _value(self, subject: str, prompt: tuple[int, str], seed: int | None) -> Values | None:
        """What the verdicts on one text say together; None if any is missing."""
        calls = self._calls[subject, prompt, seed]
        verdicts = {call: self._verdicts[call.key] for call in calls if call.key in self._verdicts}
        good = [verdict.score or 0.0 for verdict in verdicts.values() if verdict.state == "ok"]
        if not calls or len(good) < len(calls):
            return None
        if self._judge.mode == "pointwise":
            return (sum(good) / len(good),)
        return pair_outcome(verdicts)

    def _too_few(self, subjects: set[str], asked: Sequence[tuple[int, str]], whole: int) -> str:
        """Why there is no value."""
        places = set(asked)
        keys = {
            call.key
            for (subject, prompt, _), calls in self._calls.items()
            if subject in subjects and prompt in places
            for call in calls
        }
        counts = sorted(self.states(keys).items())
        listed = ", ".join(f"{n} {state}" for state, n in counts if state != "ok")
        return f"only {whole} of {len(asked)} prompts are judged in full ({listed or 'none asked'})"


def pair_outcome(verdicts: Mapping[Call, Verdict]) -> Rates:
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
    return Rates(
        win_rate=sum((sign + 1) / 2 for sign in outcomes) / n,
        tie_rate=sum(sign == 0 for sign in outcomes) / n,
        flip_rate=sum(len(set(signs)) > 1 for signs in repetitions.values()) / n,
        first_rate=sum(chose_first) / len(chose_first),
    )


def _mean(rows: Sequence[Sequence[float]], seeds: Seeds) -> Estimate:
    interval = stats.bootstrap([sum(row) / len(row) for row in rows])
    per_seed = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return _estimate(interval, len(rows), seeds, per_seed)


def _estimate(
    interval: Sequence[float], prompts: int, seeds: Seeds, per_seed: Sequence[float]
) -> Estimate:
    mean, low, high = interval
    return Estimate(
        mean=mean,
        low=round(low, stats.DECIMALS),
        high=round(high, stats.DECIMALS),
        n_prompts=prompts,
        seeds=[seed for seed in seeds if seed is not None],
        per_seed=[float(value) for value in per_seed],
    )
