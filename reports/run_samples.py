"""Which answers a report of a run shows: a fixed choice, with the references and other models beside."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.files.store import read_records
from kdbench.harness.metrics import info
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


def samples(
    folder: Path, key: str, task: str, label: str, others: Mapping[str, Path]
) -> list[Sample]:
    """Chosen prompts of one evaluation with the answers of the first decoding seed.

    Args:
        folder: the run's folder.
        key: the evaluation, ``<task>@<hash8>``.
        task: how it is called in titles.
        label: how the run's model is called.
        others: label -> run folder of models whose answers stand beside; those without an answer
            to the same prompt are left out.
    """
    chosen = choose(read_records(folder / "eval" / key / "scores.jsonl", ScoreRow))
    if not chosen:
        return []
    seed = chosen[0].row.seeds[0]
    answers = {
        name: _answers(path / "eval" / key / f"samples.seed{seed}.jsonl")
        for name, path in {label: folder, **others}.items()
    }
    scores = {
        name: {r.doc_id: r for r in read_records(path / "eval" / key / "scores.jsonl", ScoreRow)}
        for name, path in {label: folder, **others}.items()
    }
    found = []
    for why, row in chosen:
        mine = answers[label].get(row.doc_id)
        if mine is None:
            continue
        shown = [
            Answer("reference" if len(mine.references) == 1 else f"reference {place}", cut(text))
            for place, text in enumerate(mine.references, start=1)
        ]
        for name, rows in answers.items():
            sample = rows.get(row.doc_id)
            if sample is not None and sample.prompt_hash == row.prompt_hash:
                note = _note(sample, scores[name].get(row.doc_id))
                shown.append(Answer(name, cut(sample.response), note))
        found.append(Sample(f"{task} {row.doc_id}: {why}", cut(mine.prompt), shown))
    return found


def cut(text: str) -> str:
    """The beginning of a long text, and how much more there is."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def _answers(path: Path) -> dict[int, SampleRow]:
    return {row.doc_id: row for row in read_records(path, SampleRow)}


def _mean(row: ScoreRow) -> float:
    values = row.metrics[METRIC]
    return sum(values) / len(values)


def _note(sample: SampleRow, score: ScoreRow | None) -> str:
    parts = []
    if score is not None and score.metrics.get(METRIC) and sample.seed in score.seeds:
        value = score.metrics[METRIC][score.seeds.index(sample.seed)]
        parts.append(f"{info(METRIC).label} {number(value, METRIC)}")
    parts.append(f"{sample.response_tokens} tokens, seed {sample.seed}")
    if not sample.finished:
        parts.append("cut at the length limit")
    return ", ".join(parts)
