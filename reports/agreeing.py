"""Which rows of a board stand against each other when it is asked whether two sides rank alike."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from kdbench.reports.agreement import Agreement, agreement
from kdbench.reports.headline import Field, scores_of
from kdbench.reports.rows import GroupedRow, Section
from kdbench.reports.rules.check import pair_title

Side = tuple[Sequence[GroupedRow], Sequence[Field]]
"""The rows of one table and its main columns."""
BY_TUNING = "default and tuned settings"


def pair_name(section: Section) -> str:
    """The models of a table in words."""
    title = pair_title(section.suite, section.teacher, section.student)
    return title.removeprefix(section.suite).removeprefix(": ")


def of_tuning(rows: Sequence[GroupedRow], fields: Sequence[Field]) -> Agreement | None:
    """Whether methods rank alike by their suite's settings and by those that a search found.

    A method for which the search found its suite's settings has one row, which stands on both sides.
    """
    default: dict[str, str] = {}
    tuned: dict[str, str] = {}
    for each in rows:
        row = each.row
        name = f"{row.method} {row.variant}".strip()
        if row.searched:
            tuned[name] = row.label
        if row.plain and (row.searched or row.tuning == "default"):
            default.setdefault(name, row.label)
    names = [name for name in default if name in tuned]
    if all(default[name] == tuned[name] for name in names):
        return None
    labels = [[side[name] for name in names] for side in (default, tuned)]
    return _between(BY_TUNING, names, [fields, fields], labels)


def of_pairs(sides: Mapping[str, Side]) -> list[Agreement]:
    """Whether each two pairs of models rank the methods alike that both have."""
    found = []
    for (one, (rows, fields)), (two, (others, theirs)) in itertools.combinations(sides.items(), 2):
        known = {each.row.label for each in others if not each.row.reference}
        names = [e.row.label for e in rows if not e.row.reference and e.row.label in known]
        if made := _between(f"{one} and {two}", names, [fields, theirs], [names, names]):
            found.append(made)
    return found


def _between(
    between: str,
    names: Sequence[str],
    fields: Sequence[Sequence[Field]],
    labels: Sequence[Sequence[str]],
) -> Agreement | None:
    """Agreement over those of the names that are in all columns of their side."""
    kept = [
        i
        for i in range(len(names))
        if all(
            label[i] in field.at for own, label in zip(fields, labels, strict=True) for field in own
        )
    ]
    if not kept or not all(fields):
        return None
    drawn = [
        scores_of(own, [label[i] for i in kept]) for own, label in zip(fields, labels, strict=True)
    ]
    score = np.stack([observed for observed, _ in drawn])
    draws = np.stack([draws for _, draws in drawn])
    return agreement(between, [names[i] for i in kept], score, draws)
