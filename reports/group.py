"""Which runs make one row, which rows one table."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from kdbench.harness.files.records import ModelRef, RunCard
from kdbench.reports.load import Run, read_changes, read_config, read_init
from kdbench.reports.model import Row
from kdbench.reports.rules.check import with_divisions

INIT = "sft-init"
"""What the runner calls the student that methods start from."""
SHOWN = 3
"""Changed settings that a label names."""
REFERENCE_ORDER = ("truth", "teacher", "init", "sft_init", "sft-init", "sft init")
"""Reference rows in this order, then any other evaluated model by name, then methods."""


class GroupedRow(NamedTuple):
    """A row with the runs whose mean it is."""

    row: Row
    runs: tuple[Run, ...]


class Section(NamedTuple):
    """The rows of one table."""

    suite: str
    teacher: str
    student: str
    rows: tuple[GroupedRow, ...]


def sections(runs: Sequence[Run]) -> list[Section]:
    """Tables in order of suite, teacher and student; references first, methods by name.

    Runs of one method differ in their training seed and in nothing else that was configured;
    otherwise they are different rows. Evaluated models (kind eval) are shown in each table of their
    suite that they belong to: same teacher, same student, or neither recorded. Divisions are those
    that the comparison rules give the runs beside each other.
    """
    runs = with_divisions(runs)
    trained = [run for run in runs if run.summary.run.kind == "run"]
    evaluated = [run for run in runs if run.summary.run.kind == "eval"]
    tables: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in trained:
        tables[_pair(run.summary.run)].append(run)
    suites: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key in tables:
        suites[key[0]].append(key)
    belongs: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in evaluated:
        keys = suites.get(run.summary.run.suite, [])
        fitting = [k for k in keys if len(keys) == 1 or _fits(run.summary.run, tables[k])]
        for key in fitting or [(run.summary.run.suite, "", "", "")]:
            belongs[key].append(run)
    made = []
    for key in sorted(set(tables) | set(belongs)):
        rows = _rows(belongs[key]) + _rows(tables[key])
        suite, teacher, _, student = key
        made.append(Section(suite, teacher, student, tuple(rows)))
    return made


def _pair(card: RunCard) -> tuple[str, ...]:
    """Suite, teacher by name and content, student by name.

    Not the student's content: a training seed may make its own init.
    """
    teacher = card.teacher
    return (
        card.suite,
        teacher.name if teacher else "",
        teacher.fingerprint if teacher else "",
        card.student.name if card.student else "",
    )


def _fits(card: RunCard, runs: Sequence[Run]) -> bool:
    """Whether an evaluated model belongs beside these runs of one pair."""
    models = [model for model in (card.teacher, card.student) if model]
    if not models:
        return True
    first = runs[0].summary.run
    return any(_same(model, other) for model in models for other in (first.teacher, first.student))


def _same(a: ModelRef, b: ModelRef | None) -> bool:
    return b is not None and (
        a.fingerprint == b.fingerprint or (a.name, a.parameters) == (b.name, b.parameters)
    )


def _rows(runs: Sequence[Run]) -> list[GroupedRow]:
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        card = run.summary.run
        model = card.student.fingerprint if card.kind == "eval" and card.student else ""
        if card.kind == "eval" and card.method == INIT and (init := read_init(run)):
            # each training seed makes its own init: one row over seeds, as of a method
            model, seed = init
            seeded = card.model_copy(update={"training_seed": seed})
            run = run._replace(summary=run.summary.model_copy(update={"run": seeded}))
        groups[(card.method, card.variant, card.regime, card.division, model)].append(run)
    made: list[GroupedRow] = []
    for group in groups.values():
        made.extend(_by_config(group))
    made = _distinct(made)
    return sorted(made, key=lambda grouped: _order(grouped.row))


def _by_config(runs: Sequence[Run]) -> list[GroupedRow]:
    """One row for each configuration; a training seed that comes twice makes rows of their own."""
    if len(runs) == 1:
        return [row_of(runs)]
    by_config: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        # what a model was evaluated with may have been any method's configuration
        config = read_config(run) if run.summary.run.kind == "run" else ""
        by_config[config].append(run)
    made: list[GroupedRow] = []
    for group in by_config.values():
        seeds = [run.summary.run.training_seed for run in group]
        if len(set(seeds)) < len(seeds) or None in seeds:
            made.extend(row_of([run]) for run in group)
        else:
            made.append(row_of(sorted(group, key=lambda run: run.summary.run.training_seed or 0)))
    return made


def row_of(runs: Sequence[Run]) -> GroupedRow:
    """The row of runs that differ in their training seed."""
    card = runs[0].summary.run
    label = f"{card.method} {card.variant}".strip()
    if card.kind == "run" and card.division == "open":
        label += " (open)"
    changes = read_changes(runs[0]) if card.kind == "run" else ()
    label = ", ".join([label, *changes[:SHOWN], *(["…"] if len(changes) > SHOWN else [])])
    seeds = [run.summary.run.training_seed for run in runs]
    ids = [run.summary.run.id for run in runs]
    row = Row(
        id=hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12],
        label=label,
        kind=card.kind,
        method=card.method,
        variant=card.variant,
        regime=card.regime,
        division=card.division,
        broken=list(dict.fromkeys(name for run in runs for name in run.broken)),
        student=card.student.name if card.student else "",
        changes=list(changes),
        training_seeds=[seed for seed in seeds if seed is not None],
        runs=ids,
    )
    return GroupedRow(row, tuple(runs))


def standing(rows: Sequence[GroupedRow]) -> list[GroupedRow]:
    """Of several rows of a method those that may stand for it; one, unless they are equally plain.

    A closed row before an open one, the suite's settings before changed ones, then the most training
    seeds.
    """

    def worth(grouped: GroupedRow) -> tuple[bool, bool, int]:
        return (grouped.row.division == "closed", not grouped.row.changes, len(grouped.runs))

    most = max(map(worth, rows))
    return [grouped for grouped in rows if worth(grouped) == most]


def short_ids(rows: Sequence[GroupedRow]) -> list[str]:
    """The id of each row's first run, cut to as few digits (at least four) as tell them apart."""
    ids = [grouped.row.runs[0] for grouped in rows]
    length = next((n for n in range(4, 13) if len({i[:n] for i in ids}) == len(ids)), None)
    return [i[:length] for i in ids]


def _distinct(rows: list[GroupedRow]) -> list[GroupedRow]:
    """Rows whose labels would be the same get the id of their first run, as short as it can be."""
    by_label: dict[str, list[GroupedRow]] = defaultdict(list)
    for grouped in rows:
        by_label[grouped.row.label].append(grouped)
    made: list[GroupedRow] = []
    for label, group in by_label.items():
        for grouped, digits in zip(group, short_ids(group), strict=True):
            name = f"{label} {digits}" if len(group) > 1 else label
            made.append(grouped._replace(row=grouped.row.model_copy(update={"label": name})))
    return made


def _order(row: Row) -> tuple[bool, int, str, str]:
    name = row.method.lower()
    known = REFERENCE_ORDER.index(name) if name in REFERENCE_ORDER else len(REFERENCE_ORDER)
    return (not row.reference, known if row.reference else 0, row.label, row.id)
