"""Stored answers for the page: the prompts of each task, all students side by side.

Answers to one prompt are found by the hash of the rendered prompt. In which order prompts are shown
follows from these hashes alone, category by category, so where the page has no room for all of them
the choice favours no method, and another row on the board changes it only if that row lacks a prompt.
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
from kdbench.reports.columns import Cell, ColumnKey, Found, directed
from kdbench.reports.runs import prompt_lines, prompt_rows, score_of, scores

if TYPE_CHECKING:
    from kdbench.reports.board import Table

ANSWER, PROMPT, REFERENCES = 1500, 3000, 3
"""Characters of an answer or a reference and of a prompt, and references, that are shown."""
EXACT = "exact_match"

_CATEGORY = re.compile(rb'"category": ?"([^"\\]*)"')
Json = dict[str, Any]


class Answers(NamedTuple):
    """All that is stored of one task, in the order in which prompts are shown."""

    heading: str
    metric: str
    """What an answer is called better by; empty: nothing."""
    exact: bool
    """Whether it is known which answers are a reference word by word."""
    prompts: list[list[Any]]
    """Text, characters left out, category, references (text, left out), further references."""
    answers: dict[int, list[list[Any] | None]]
    """By row position, one a prompt: text, characters left out, finished, value, exact or None."""
    asked: int
    """Prompts of the task; a bundle keeps the answers to some."""

    def first(self, count: int) -> Json:
        """The first so many prompts, as the page reads them."""
        rows = [[place, found[:count]] for place, found in self.answers.items()]
        return {"prompts": self.prompts[:count], "answers": rows}

    def about(self, count: int) -> Json:
        """What the page says of them before they are looked at."""
        known = info(self.metric)
        return {
            "heading": self.heading,
            "metric": known.label if self.metric else "",
            **{name: getattr(known, name) for name in ("better", "digits")},
            "exact": self.exact,
            "count": count,
            "of": max(self.asked, len(self.prompts)),
            "places": list(self.answers),
        }


def answers(table: "Table", found: Sequence[Found]) -> list[Answers]:
    """Answers of at most `MAX_ROWS` rows of a table to the prompts of its tasks.

    Of each row those of the first run to its first decoding seed.

    Args:
        table: the rows, as they stand on the board.
        found: the same rows' evaluations.
    """
    rows = _rows(table)
    metrics: dict[ColumnKey, str] = {}
    for column in table.columns:
        if directed(column) and info(column.metric).headline:
            metrics.setdefault(column.key, column.metric)
    made = []
    for key, heading in _headings(table).items():
        stored = _stored(rows, found, key)
        if stored and (answered := _answers(stored, heading, metrics.get(key, ""))):
            made.append(answered)
    return made


def shown_answers(
    table: "Table", found: Sequence[Found], prompts: int
) -> dict[Path, dict[str, bytes]]:
    """The stored lines behind the first so many prompts of `answers`: by file, then by prompt."""
    rows = _rows(table)
    kept: dict[Path, dict[str, bytes]] = {}
    for key in _headings(table):
        if stored := _stored(rows, found, key):
            drawn = _draw(stored)
            for place, file in drawn.files.items():
                lines = drawn.lines[place]
                kept[file] = {name: lines[name] for name in drawn.names[:prompts] if name in lines}
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
    """Prompts in order, and of each row the file of answers to its first decoding seed, by prompt."""

    names: list[str]
    files: dict[int, Path]
    lines: dict[int, dict[str, bytes]]


def _draw(stored: Mapping[int, Evaluation]) -> _Drawn:
    """The prompts that most rows answered."""
    files = {place: e.samples_file(e.seeds()[0]) for place, e in sorted(stored.items())}
    lines = {place: prompt_lines(file) for place, file in files.items()}
    counts = Counter(name for found in lines.values() for name in found)
    highest = max(counts.values(), default=0)
    everywhere = {name for name, count in counts.items() if count == highest}
    fullest = next((found for found in lines.values() if everywhere <= found.keys()), None)
    return _Drawn(_order(everywhere, fullest) if fullest else [], files, lines)


def _answers(stored: Mapping[int, Evaluation], heading: str, metric: str) -> Answers | None:
    """The prompts of one task with the answers of each row's first run; None: nobody answered."""
    names, files, lines = _draw(stored)
    if not names:
        return None
    prompts: dict[str, SampleRow] = {}
    shown: dict[int, list[list[Any] | None]] = {}
    exact, asked = False, 0
    for place, file in files.items():
        mine = {name: lines[place][name] for name in names if name in lines[place]}
        rows = prompt_rows(file, SampleRow, mine)
        scored = scores(stored[place])
        asked = max(asked, len(scored))
        exact = exact or any(EXACT in row.metrics for row in scored.values())
        shown[place] = [_answer(rows.get(name), scored.get(name), metric) for name in names]
        for name, row in rows.items():
            prompts.setdefault(name, row)
    return Answers(heading, metric, exact, [_prompt(prompts[name]) for name in names], shown, asked)


def _order(names: Collection[str], lines: Mapping[str, bytes]) -> list[str]:
    """The smallest hashes first, categories in turn."""
    categories: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: name.partition(":")[::-1]):
        match = _CATEGORY.search(lines[name])
        categories[match[1].decode(errors="replace") if match else ""].append(name)
    turns = [
        (turn, category, name)
        for category, members in categories.items()
        for turn, name in enumerate(members)
    ]
    return [name for _, _, name in sorted(turns)]


def _prompt(row: SampleRow) -> list[Any]:
    references = [list(_cut(text, ANSWER)) for text in row.references[:REFERENCES]]
    more = max(0, len(row.references) - REFERENCES)
    category = (row.category or "").replace("_", " ")
    return [*_cut(row.prompt, PROMPT), category, references, more]


def _answer(row: SampleRow | None, scored: ScoreRow | None, metric: str) -> list[Any] | None:
    if row is None:
        return None
    value = score_of(scored, metric, row.seed) if metric else None
    exact = score_of(scored, EXACT, row.seed)
    shown = None if value is None else round(value, 2)
    return [*_cut(row.response, ANSWER), row.finished, shown, None if exact is None else exact > 0]


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters are missing."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
