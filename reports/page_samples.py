"""Stored answers for the page: a few prompts of each task, several students side by side.

Answers to one prompt are found by the hash of the rendered prompt. Which prompts are shown follows
from these hashes alone, category by category, so the choice favours no method and another row on
the board changes it only if that row lacks a prompt.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow
from kdbench.harness.metrics import info
from kdbench.reports.columns import Found, TaskKey, task_key
from kdbench.reports.group import Section
from kdbench.reports.model import Cell, Table
from kdbench.reports.pairs import MAX_ROWS

ANSWER, PROMPT, REFERENCES = 900, 2000, 3
"""Characters of an answer or a reference and of a prompt, and references, that are shown."""

_HASH = re.compile(rb'"prompt_hash": ?"([0-9a-f]+)"')
Json = dict[str, Any]


def samples(
    section: Section, table: Table, found: Sequence[Found], prompts: int
) -> tuple[list[Json], set[int]]:
    """Answers of at most ``MAX_ROWS`` rows of a table.

    Args:
        section: the rows' runs.
        table: the same rows, as they stand on the board.
        found: the same rows' evaluations.
        prompts: how many prompts of each task.

    Returns:
        One entry a task: its heading and its prompts, each with its answers by row position; and
        the positions of the rows that have answers.
    """
    headings: dict[TaskKey, str] = {}
    for column in table.columns:
        if info(column.metric).kind != "judge":
            headings.setdefault(task_key(column), column.heading)
    rows = _rows(table)
    groups, shown = [], set()
    for key, heading in headings.items():
        files: dict[int, Path] = {}
        for place in rows:
            file = _file(found[place].get(key, []))
            if file:
                files[place] = file
        drawn = _group(files, prompts) if prompts else []
        if drawn:
            groups.append({"heading": heading, "prompts": drawn})
            shown |= {int(place) for prompt in drawn for place in prompt["answers"]}
    return groups, shown


def _rows(table: Table) -> list[int]:
    """References first, then methods by the first column, the best ones."""
    better = [i for i, c in enumerate(table.columns) if info(c.metric).better]

    def order(place: int) -> tuple[bool, float, int]:
        cell = table.cells[place][better[0]] if better else None
        sign = info(table.columns[better[0]].metric).better if better else 0
        value = -sign * cell.mean if isinstance(cell, Cell) else float("inf")
        return (not table.rows[place].reference, value, place)

    return sorted(range(len(table.rows)), key=order)[:MAX_ROWS]


def _file(entries: Sequence[Any]) -> Path | None:
    """Answers of the row's first run to its first decoding seed."""
    for entry in entries[:1]:
        folder = entry.run.folder / "eval" / entry.key
        files = [
            (int(match[1]), path)
            for path in folder.glob("samples.seed*.jsonl")
            if (match := re.fullmatch(r"samples\.seed(-?\d+)\.jsonl", path.name))
        ]
        if files:
            return min(files)[1]
    return None


def _group(files: dict[int, Path], prompts: int) -> list[Json]:
    lines = {place: _by_hash(path) for place, path in files.items()}
    if not lines:
        return []
    counts = Counter(name for found in lines.values() for name in found)
    most = max(counts.values(), default=0)
    everywhere = sorted(name for name, count in counts.items() if count == most)
    fullest = next((found for found in lines.values() if set(everywhere) <= set(found)), None)
    if not everywhere or fullest is None:
        return []
    chosen = _choose(everywhere, fullest, prompts)
    scores = {place: _rouge(path.parent / "scores.jsonl", chosen) for place, path in files.items()}
    rows = {
        place: {name: _sample(found[name], files[place]) for name in chosen if name in found}
        for place, found in lines.items()
    }
    return [_prompt(name, rows, scores) for name in chosen]


def _by_hash(path: Path) -> dict[str, bytes]:
    """Lines of a file by prompt hash, not parsed: of thousands only a few will be shown."""
    found: dict[str, bytes] = {}
    for line in path.read_bytes().split(b"\n"):
        match = _HASH.search(line, 0, 200)
        if match:
            found.setdefault(match[1].decode(), line)
    return found


def _choose(names: Sequence[str], lines: dict[str, bytes], prompts: int) -> list[str]:
    """The smallest hashes, categories in turn."""
    if len(names) > 40 * prompts:  # the smallest are a fair draw; no need to read them all
        names = names[: 40 * prompts]
    categories: dict[str, list[str]] = defaultdict(list)
    for name in names:
        match = re.search(rb'"category": ?"([^"\\]*)"', lines[name])
        categories[match[1].decode(errors="replace") if match else ""].append(name)
    turns = [
        (turn, category, name)
        for category, members in categories.items()
        for turn, name in enumerate(members)
    ]
    return [name for _, _, name in sorted(turns)[:prompts]]


def _sample(line: bytes, path: Path) -> SampleRow:
    try:
        return SampleRow.model_validate_json(line)
    except ValueError as error:
        raise InputError(f"{path} has a line that is no answer; run: kdbench eval") from error


def _rouge(path: Path, chosen: Iterable[str]) -> dict[str, dict[int, float]]:
    """ROUGE-L of the chosen prompts' answers: hash -> decoding seed -> value."""
    if not path.is_file():
        return {}
    lines, found = _by_hash(path), {}
    for name in chosen:
        row = json.loads(lines[name]) if name in lines else {}
        values = row.get("metrics", {}).get("rouge_l")
        if values:
            found[name] = dict(zip(row["seeds"], values, strict=True))
    return found


def _prompt(
    name: str, rows: dict[int, dict[str, SampleRow]], scores: dict[int, dict[str, dict[int, float]]]
) -> Json:
    answers = {place: found[name] for place, found in rows.items() if name in found}
    first = answers[min(answers)]
    text, cut = _cut(first.prompt, PROMPT)
    return {
        "prompt": text,
        "cut": cut,
        "category": (first.category or "").replace("_", " "),
        "references": [list(_cut(text, ANSWER)) for text in first.references[:REFERENCES]],
        "more": max(0, len(first.references) - REFERENCES),
        "answers": {
            str(place): _answer(row, scores[place].get(name, {}).get(row.seed))
            for place, row in sorted(answers.items())
        },
    }


def _answer(row: SampleRow, rouge: float | None) -> Json:
    text, cut = _cut(row.response, ANSWER)
    value = None if rouge is None else round(rouge, 2)
    return {"text": text, "cut": cut, "finished": row.finished, "rouge": value}


def _cut(text: str, limit: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters are missing."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)
