"""Stored answers for the page: a few prompts of each task, several students side by side.

Answers to one prompt are found by the hash of the rendered prompt. Which prompts are shown follows
from these hashes alone, category by category, so the choice favours no method and another row on
the board changes it only if that row lacks a prompt.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.metrics import info
from kdbench.reports.column_tests import MAX_ROWS
from kdbench.reports.columns import Cell, ColumnKey, Found
from kdbench.reports.runs import prompt_lines, prompt_rows, score_of, scores

if TYPE_CHECKING:
    from kdbench.reports.board import Table

ANSWER, PROMPT, REFERENCES = 900, 2000, 3
"""Characters of an answer or a reference and of a prompt, and references, that are shown."""

_CATEGORY = re.compile(rb'"category": ?"([^"\\]*)"')
Json = dict[str, Any]


def samples(table: "Table", found: Sequence[Found], prompts: int) -> tuple[list[Json], set[int]]:
    """Answers of at most `MAX_ROWS` rows of a table.

    Args:
        table: the rows, as they stand on the board.
        found: the same rows' evaluations.
        prompts: how many prompts of each task.

    Returns:
        One entry a task: its heading and its prompts, each with its answers by row position; and
        the positions of the rows that have answers.
    """
    rows = _rows(table)
    groups, shown = [], set()
    for key, heading in _headings(table).items():
        stored = _stored(rows, found, key)
        drawn = _prompts(stored, prompts) if prompts and stored else []
        if drawn:
            groups.append({"heading": heading, "prompts": drawn})
            shown |= {int(place) for prompt in drawn for place in prompt["answers"]}
    return groups, shown


def shown_answers(
    table: "Table", found: Sequence[Found], prompts: int
) -> dict[Path, dict[str, bytes]]:
    """The stored lines that `samples` takes: by file, then by prompt."""
    rows = _rows(table)
    kept: dict[Path, dict[str, bytes]] = {}
    for key in _headings(table):
        if stored := _stored(rows, found, key):
            drawn = _draw(stored, prompts)
            for place, file in drawn.files.items():
                lines = drawn.lines[place]
                kept[file] = {name: lines[name] for name in drawn.chosen if name in lines}
    return kept


def _headings(table: "Table") -> dict[ColumnKey, str]:
    """The evaluations of a table that answers belong to."""
    headings: dict[ColumnKey, str] = {}
    for column in table.columns:
        if info(column.metric).kind != "judge":
            headings.setdefault(column.key, column.heading)
    return headings


def _stored(rows: Sequence[int], found: Sequence[Found], key: ColumnKey) -> dict[int, Evaluation]:
    """Of each row the first evaluation, if answers are stored."""
    having = {place: found[place][key][0].evaluation for place in rows if key in found[place]}
    return {place: evaluation for place, evaluation in having.items() if evaluation.seeds()}


def _rows(table: "Table") -> list[int]:
    """References first, then methods by the first column, the best ones."""
    better = [i for i, c in enumerate(table.columns) if info(c.metric).better]

    def order(place: int) -> tuple[bool, float, int]:
        cell = table.cells[place][better[0]] if better else None
        sign = info(table.columns[better[0]].metric).better if better else 0
        value = -sign * cell.mean if isinstance(cell, Cell) else float("inf")
        return (not table.rows[place].reference, value, place)

    return sorted(range(len(table.rows)), key=order)[:MAX_ROWS]


class _Drawn(NamedTuple):
    """Chosen prompts, and of each row the file of answers to its first decoding seed, by prompt."""

    chosen: list[str]
    files: dict[int, Path]
    lines: dict[int, dict[str, bytes]]


def _draw(stored: Mapping[int, Evaluation], most: int) -> _Drawn:
    """Chooses among the prompts that most rows have."""
    files = {place: e.samples_file(e.seeds()[0]) for place, e in stored.items()}
    lines = {place: prompt_lines(file) for place, file in files.items()}
    counts = Counter(name for found in lines.values() for name in found)
    highest = max(counts.values(), default=0)
    everywhere = {name for name, count in counts.items() if count == highest}
    fullest = next((found for found in lines.values() if everywhere <= found.keys()), None)
    if not everywhere or fullest is None:
        return _Drawn([], files, lines)
    return _Drawn(_choose(everywhere, fullest, most), files, lines)


def _prompts(stored: Mapping[int, Evaluation], most: int) -> list[Json]:
    """Chosen prompts with the answers of each row's first run to its first decoding seed."""
    chosen, files, lines = _draw(stored, most)
    rows = {
        place: prompt_rows(
            file, SampleRow, {name: lines[place][name] for name in chosen if name in lines[place]}
        )
        for place, file in files.items()
    }
    scored = {place: scores(evaluation, set(chosen)) for place, evaluation in stored.items()}
    return [_prompt(name, rows, scored) for name in chosen]


def _choose(names: Collection[str], lines: Mapping[str, bytes], most: int) -> list[str]:
    """The smallest hashes, categories in turn."""
    smallest = sorted(names, key=lambda name: name.partition(":")[::-1])[: 40 * most]
    categories: dict[str, list[str]] = defaultdict(list)
    for name in smallest:  # a fair draw; no need to look at all
        match = _CATEGORY.search(lines[name])
        categories[match[1].decode(errors="replace") if match else ""].append(name)
    turns = [
        (turn, category, name)
        for category, members in categories.items()
        for turn, name in enumerate(members)
    ]
    return [name for _, _, name in sorted(turns)[:most]]


def _prompt(
    name: str,
    rows: Mapping[int, Mapping[str, SampleRow]],
    scored: Mapping[int, Mapping[str, ScoreRow]],
) -> Json:
    given = {place: found[name] for place, found in rows.items() if name in found}
    first = given[min(given)]
    text, cut = _cut(first.prompt, PROMPT)
    return {
        "prompt": text,
        "cut": cut,
        "category": (first.category or "").replace("_", " "),
        "references": [list(_cut(text, ANSWER)) for text in first.references[:REFERENCES]],
        "more": max(0, len(first.references) - REFERENCES),
        "answers": {
            str(place): _answer(row, score_of(scored[place].get(name), "rouge_l", row.seed))
            for place, row in sorted(given.items())
        },
    }


def _answer(row: SampleRow, rouge: float | None) -> Json:
    text, cut = _cut(row.response, ANSWER)
    value = None if rouge is None else round(rouge, 2)
    return {"text": text, "cut": cut, "finished": row.finished, "rouge": value}


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters are missing."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
