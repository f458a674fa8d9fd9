"""Per-prompt scores of many runs side by side, in a fraction of their size and without loss.

All runs answer the same prompts, and of a prompt only some scores are possible. So lines of scores are
taken apart into a skeleton (equal in all runs that were asked the same) and the values of each answer.
A prompt's different values are listed once, the most frequent first, and an answer is a place in that
list: mostly a small number, which a general compressor makes smaller still.

Nothing here knows what a metric is: the text of a value is kept, not its number.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.harness.files.bundle.contents import (
    MAX_DIGITS,
    MAX_HELD,
    MAX_PLACES,
    MAX_VALUES,
)
from kdbench.harness.files.records import Record

_AFTER = '"metrics":'
_LIST = re.compile(r"\[([-+.0-9eE,]+)\]")
_VALUE = re.compile(rf"[-+.0-9eE]{{0,{MAX_DIGITS}}}")
_GAP = "\0"
"""Stands for a list of values; no JSON text holds this character."""
_LARGEST = 65_535

Values = tuple[str, ...]
"""What one answer scored, a text a metric."""
Numbers = NDArray[np.uint16]


class Table(NamedTuple):
    """The scores of one evaluation, taken apart."""

    skeleton: tuple[str, ...]
    """The lines, each list of values replaced by a gap."""
    answers: int
    """Of each prompt."""
    values: list[list[Values]]
    """Prompts by answers."""


class Group(Record):
    """Scores of evaluations that look alike: their lines differ in values only."""

    files: list[tuple[str, str]]
    """Run and path of each."""
    skeleton: list[str]
    answers: int
    values: list[list[str]]
    """For each place in an answer's values all that stand there in any."""
    numbers: int
    """How many the group has in the file of numbers."""


def take_apart(data: bytes) -> Table | None:
    """The scores of a file; None if it is not written as kdbench writes scores."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    if lines.pop() or not lines or _GAP in text:
        return None
    skeleton, columns = [], []
    for line in lines:
        head, mark, tail = line.partition(_AFTER)
        skeleton.append(head + mark + _LIST.sub(_GAP, tail))
        columns.append([found.split(",") for found in _LIST.findall(tail)])
    lengths = {len(values) for line in columns for values in line}
    if len(lengths) != 1:
        return None
    answers = lengths.pop()
    if not all(_VALUE.fullmatch(text) for line in columns for found in line for text in found):
        return None
    values: list[list[Values]] = [
        list(zip(*line, strict=True)) if line else [()] * answers for line in columns
    ]
    table = Table(tuple(skeleton), answers, values)
    return table if b"".join(put_together(table)) == data else None


def put_together(table: Table) -> Iterator[bytes]:
    """The lines of a table."""
    for line, values in zip(table.skeleton, table.values, strict=True):
        parts = line.split(_GAP)
        columns = ["[" + ",".join(column) + "]" for column in zip(*values, strict=True)]
        whole = [text for pair in zip(parts, columns, strict=False) for text in pair]
        yield f"{''.join(whole)}{parts[-1]}\n".encode()


def encode(files: Sequence[tuple[str, str]], tables: Sequence[Table]) -> tuple[Group, Numbers]:
    """Tables of one skeleton as a group and its numbers.

    The numbers are, one after the other: how many different values each prompt has; for each place in
    them, which text stands there; and of each prompt, file and answer the place in the prompt's list.

    Raises:
        ValueError: more different values than a number can say.
    """
    first = tables[0]
    lists, places = [], []
    for line in range(len(first.skeleton)):
        given = [values for table in tables for values in table.values[line]]
        counts = Counter(given)
        order = sorted(counts, key=lambda values: (-counts[values], values))
        at = {values: place for place, values in enumerate(order)}
        lists.append(order)
        places += [at[values] for values in given]
    width = max(len(values) for order in lists for values in order)
    texts, planes = [], []
    for place in range(width):
        column = [v[place] for order in lists for v in order if place < len(v)]
        known = sorted(set(column), key=lambda text: (float(text), text))
        number = {text: i for i, text in enumerate(known)}
        texts.append(known)
        planes += [number[text] for text in column]
    numbers = [*map(len, lists), *planes, *places]
    if max(numbers) > _LARGEST:
        raise ValueError("too many different values")
    group = Group(
        files=list(files),
        skeleton=list(first.skeleton),
        answers=first.answers,
        values=texts,
        numbers=len(numbers),
    )
    return group, np.array(numbers, dtype=np.uint16)


def decode(group: Group, numbers: Numbers) -> Iterator[tuple[tuple[str, str], bytes]]:
    """Run and path of each file of a group, and its content.

    Raises:
        ValueError: the numbers are not those of such a group, or it stands for files too large.
    """
    lines = len(group.skeleton)
    counts, rest = numbers[:lines].astype(int), numbers[lines:]
    widths = np.array([line.count(_GAP) for line in group.skeleton], dtype=int)
    _check_sizes(group, counts, widths)
    lists = _lists(group, counts, widths, rest)
    used = int((counts * widths).sum())
    shape = (lines, len(group.files), group.answers)
    places = rest[used:].reshape(shape)
    if (places >= counts[:, None, None]).any():
        raise ValueError("a place beyond the end of a prompt's values")
    for at, file in enumerate(group.files):
        values = [
            [order[place] for place in line]
            for order, line in zip(lists, places[:, at].tolist(), strict=True)
        ]
        yield file, b"".join(put_together(Table(tuple(group.skeleton), group.answers, values)))


def _check_sizes(group: Group, counts: NDArray[np.int64], widths: NDArray[np.int64]) -> None:
    """Raises ValueError for a group that would take much more room than it does; nothing is made yet."""
    if group.answers < 0 or not all(_VALUE.fullmatch(v) for known in group.values for v in known):
        raise ValueError("a value that is no number")
    different = max(int(counts.sum()), len(group.skeleton) * group.answers)
    if different > MAX_VALUES or different * len(group.values) > MAX_VALUES * MAX_PLACES:
        raise ValueError(f"more than {MAX_VALUES:,} different values")
    longest = [max(map(len, known), default=0) for known in group.values]
    most = max(longest, default=0) + 1
    text = sum(len(line.encode()) + 1 for line in group.skeleton)
    if text + int(widths.sum()) * (2 + group.answers * most) > MAX_HELD:
        raise ValueError(f"a file of more than {MAX_HELD >> 20} MiB")


def _lists(
    group: Group, counts: NDArray[np.int64], widths: NDArray[np.int64], planes: Numbers
) -> list[list[Values]]:
    """The different values of each prompt."""
    entries = np.repeat(widths, counts)  # how wide each entry of each prompt's list is
    columns: list[list[str]] = [[] for _ in range(len(entries))]
    start = 0
    for place, known in enumerate(group.values):
        having = np.flatnonzero(entries > place)
        plane = planes[start : start + len(having)]
        start += len(having)
        if len(plane) < len(having) or (plane >= len(known)).any():
            raise ValueError("a value that the group does not list")
        for entry, number in zip(having.tolist(), plane.tolist(), strict=True):
            columns[entry].append(known[number])
    if any(len(c) != w for c, w in zip(columns, entries.tolist(), strict=True)):
        raise ValueError("fewer values than its lines have gaps")
    found, at = [], 0
    for count in counts.tolist():
        found.append([tuple(column) for column in columns[at : at + count]])
        at += count
    return found
