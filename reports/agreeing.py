"""Which rows of a board stand against each other when it is asked whether two sides rank alike."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdbench.reports.agreement import Agreement, agreement
from kdbench.reports.headline import Field, scores_of
from kdbench.reports.rows import GroupedRow, Section, standing
from kdbench.reports.rules.check import pair_title
from kdbench.reports.runs import grouped


class Side(NamedTuple):
    """One pair of models: its methods, each by one row, and its main columns, which name rows so."""

    methods: Mapping[str, str]
    """Name of a method -> id of the row that stands for it."""
    fields: list[Field]


BY_TUNING = "default and tuned settings"


def pair_name(section: Section) -> str:
    """The models of a table in words."""
    title = pair_title(section.suite, section.teacher, section.student)
    return title.removeprefix(section.suite).removeprefix(": ")


def side_of(rows: Sequence[GroupedRow], fields: Sequence[Field]) -> Side:
    """A table as it is compared with others: each method by the row that may stand for it.

    How often settings were tried may differ between pairs, so that is not in the names. A method with
    several rows that may equally stand for it is left out.
    """
    named: dict[str, GroupedRow] = {}
    methods = [each for each in rows if not each.row.reference]
    for name, alike in grouped(methods, _name).items():
        found = standing(alike)
        if len(found) == 1:
            named[name] = found[0]
    known = {each.row.label: name for name, each in named.items()}
    taken = known.keys() | {each.row.label for each in rows if each.row.reference}

    def renamed(found: Field) -> Field:
        at = {known.get(label, label): i for label, i in found.at.items() if label in taken}
        base = known.get(found.baseline, found.baseline)
        return found._replace(at=at, baseline=base if base in at else "")

    return Side({name: each.row.id for name, each in named.items()}, [renamed(f) for f in fields])


def of_tuning(rows: Sequence[GroupedRow], fields: Sequence[Field]) -> Agreement | None:
    """Whether methods rank alike by their suite's settings and by those that a search found.

    A method for which the search found its suite's settings has one row, which stands on both sides.
    """
    default: dict[str, str] = {}
    tuned: dict[str, str] = {}
    for each in rows:
        row = each.row
        name = _name(each)
        if row.again:
            continue
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
    for (one, mine), (two, theirs) in itertools.combinations(sides.items(), 2):
        names = [name for name in mine.methods if name in theirs.methods]
        if made := _between(f"{one} and {two}", names, [mine.fields, theirs.fields], [names] * 2):
            found.append(made)
    return found


def _name(each: GroupedRow) -> str:
    return f"{each.row.method} {each.row.variant}".strip()


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
