"""Which answers a report of a run shows: a fixed choice, with the references and other models beside."""

from collections.abc import Mapping
from typing import NamedTuple

from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.metrics import info
from kdbench.reports.runs import answers, prompt_id, score_of, scores
from kdbench.reports.text.document import Answer, Sample
from kdbench.reports.text.style import number

METRIC = "rouge_l"
BY_ID = 2
"""Prompts shown beside best, median and worst: the first by id, whatever their scores."""
LONGEST = 2000
"""Characters of a prompt or an answer that are shown."""


class Choice(NamedTuple):
    """A prompt to show, and why."""

    why: str
    row: ScoreRow


def choose(rows: list[ScoreRow]) -> list[Choice]:
    """Best, median and worst prompt by ROUGE-L (decoding seeds averaged), then the first by id.

    Ties go to the lower id, so that equal scores give equal choices.
    """
    scored = [row for row in rows if row.metrics.get(METRIC)]
    scored.sort(key=lambda row: (-_mean(row), row.doc_id))
    chosen: dict[int, Choice] = {}
    if scored:
        places = {"best": 0, "median": len(scored) // 2, "worst": len(scored) - 1}
        for why, place in places.items():
            chosen.setdefault(scored[place].doc_id, Choice(why, scored[place]))
    others = sorted((row for row in rows if row.doc_id not in chosen), key=lambda r: r.doc_id)
    return [*chosen.values(), *(Choice("by id", row) for row in others[:BY_ID])]


def samples(title: str, models: Mapping[str, Evaluation]) -> list[Sample]:
    """Chosen prompts of one evaluation with the answers of the first decoding seed.

    Args:
        title: how the task is called.
        models: label -> the evaluation of each model, the report's own first; those without an
            answer to the same prompt are left out.
    """
    own = next(iter(models))
    chosen = choose(list(scores(models[own]).values()))
    if not chosen:
        return []
    wanted = [prompt_id(row) for _, row in chosen]
    seed = chosen[0].row.seeds[0]
    given = {who: answers(evaluation, seed, wanted) for who, evaluation in models.items()}
    scored = {who: scores(evaluation, wanted) for who, evaluation in models.items()}
    found = []
    for name, (why, row) in zip(wanted, chosen, strict=True):
        if name not in given[own]:
            continue
        prompt, references = given[own][name].prompt, given[own][name].references
        shown = [
            Answer("reference" if len(references) == 1 else f"reference {place}", cut(text))
            for place, text in enumerate(references, start=1)
        ]
        shown += [
            Answer(who, cut(rows[name].response), _note(rows[name], scored[who].get(name)))
            for who, rows in given.items()
            if name in rows
        ]
        found.append(Sample(f"{title} {row.doc_id}: {why}", cut(prompt), shown))
    return found


def cut(text: str) -> str:
    """The beginning of a long text, and how much more there is."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _mean(row: ScoreRow) -> float:
    values = row.metrics[METRIC]
    return sum(values) / len(values)


def _note(sample: SampleRow, score: ScoreRow | None) -> str:
    value = score_of(score, METRIC, sample.seed)
    notes = [] if value is None else [f"{info(METRIC).label} {number(value, METRIC)}"]
    notes.append(f"{sample.response_tokens} tokens, seed {sample.seed}")
    if not sample.finished:
        notes.append("cut at the length limit")
    return ", ".join(notes)
