"""Which runs make one row, which rows one table."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import ModelRef, Record, RunCard
from kdbench.harness.identity import model_id
from kdbench.reports.rules.check import Pair, Rulebook, group_of, teacher_names, with_divisions
from kdbench.reports.runs import Run, grouped

TUNED = "tuned"
SHOWN = 3
"""Changed settings that a label names."""
REFERENCE_ORDER = ("truth", "teacher", "init", "sft_init", "sft-init", "sft init")
"""Reference rows in this order, then any other evaluated model by name, then methods."""


class Row(Record):
    """A model, or a method over its training seeds."""

    id: str
    label: str
    kind: Literal["run", "eval"]
    method: str
    variant: str
    regime: str
    division: Literal["closed", "open", "reference", "outside"]
    broken: list[str] = []
    """Names of the fair-comparison rules that put the row into the open division."""
    student: str
    changes: list[str] = []
    """What the command changed in its suite's training, as ``setting=value``."""
    tuning: str = ""
    """How its settings were found: default, paper or tuned (N trials); empty: an evaluated model."""
    training_seeds: list[int]
    runs: list[str]
    """Ids of the runs behind the row, in the order of ``training_seeds``."""
    again: bool = False
    """Whether it is a training seed once more, of which another run is in its method's row."""

    @property
    def reference(self) -> bool:
        """Whether the row is there to compare with and takes no part in the ranking."""
        return self.kind == "eval" or self.division == "reference"

    @property
    def searched(self) -> bool:
        """Whether its settings are what a search found (``kdbench tune``)."""
        return self.tuning.startswith(TUNED)

    @property
    def plain(self) -> bool:
        """Whether its settings are those of its suite."""
        return not self.changes


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


def sections(runs: Sequence[Run], book: Rulebook | None = None) -> list[Section]:
    """Tables in order of suite, teacher and student; references first, methods by name.

    Runs of one row have equal settings and different training seeds; of several runs of one seed the row
    has the one that was evaluated most (of equals, the lowest id), and each other is a row apart.
    Evaluated models (kind eval) are shown in each table of their suite that they belong to: the teacher of
    its runs, what their students were or are, or no model recorded; others in a table of their own.
    Divisions are those that the comparison rules give the runs beside each other.

    Args:
        runs: finished runs.
        book: the rules; None: those of the default version.
    """
    trained: dict[Pair, list[Run]] = defaultdict(list)
    evaluated = []
    for run in with_divisions(runs, book):
        if run.summary.run.kind == "run":
            trained[group_of(run)].append(run)
        else:
            evaluated.append(run)
    beside: dict[Pair, list[Run]] = defaultdict(list)
    for run in evaluated:
        card = run.summary.run
        pairs = [pair for pair in trained if pair.suite == card.suite]
        fitting = [pair for pair in pairs if _fits(card, trained[pair])]
        for pair in fitting or [Pair(card.suite)]:
            beside[pair].append(run)
    pairs = sorted({*trained, *beside})
    return [
        Section(pair.suite, name, pair.student, (*_rows(beside[pair]), *_rows(trained[pair])))
        for pair, name in zip(pairs, teacher_names(pairs), strict=True)
    ]


def _fits(card: RunCard, runs: Sequence[Run]) -> bool:
    """Whether an evaluated model belongs beside these runs of one pair.

    By content: another teacher may have the same name and size. What is told of no model, as the truth,
    belongs everywhere. A student before training that none of these runs began with, of another seed
    for example, belongs to its own teacher's.
    """
    if card.student is None and card.teacher is None:
        return True
    cards = [run.summary.run for run in runs]
    teachers = {c.teacher.fingerprint for c in cards if c.teacher}
    students = {c.student.fingerprint for c in cards if c.student}
    teacher, model = card.teacher, card.student
    taught = teacher is not None and teacher.fingerprint in teachers
    if model is None:
        return taught
    alike = {(c.student.name, c.student.parameters) for c in cards if c.student}
    if taught and (model.name, model.parameters) in alike:
        return True
    return model.fingerprint in teachers | students or any(_began(run, model) for run in runs)


def _began(run: Run, model: ModelRef) -> bool:
    """Whether a run says that its student was this model once: as it was found, or after its SFT."""
    try:
        prepared, known = run.folder.prepare.find(), run.folder.identity.find()
    except InputError:  # damaged: it says nothing
        return False
    init = prepared.init if prepared else None
    base = known.parts.get("contents", {}).get("student") if known else None
    return base == model_id(model) or (init is not None and init.fingerprint == model.fingerprint)


def _rows(runs: Sequence[Run]) -> list[GroupedRow]:
    made: list[GroupedRow] = []
    for group in grouped(runs, _alike).values():
        seeded = [run for run in group if run.summary.run.training_seed is not None]
        made += [row_of([run]) for run in group if run not in seeded]
        by_seed = grouped(seeded, lambda run: run.summary.run.training_seed)
        once, again = [], []  # a repeated seed is no second sample
        for several in by_seed.values():
            first, *others = sorted(several, key=_counts)
            once.append(first)
            again += others
        made += [row_of(once)] if once else []
        made += [row_of([run], again=True) for run in again]
    return sorted(_distinct(made), key=lambda each: _order(each.row))


def _counts(run: Run) -> tuple[int, str, str]:
    """Of runs of one seed the first counts: the one evaluated most, then by id, which knows no score."""
    card = run.summary.run
    return -len(run.summary.scores), card.id, str(run.folder.path)


def _alike(run: Run) -> tuple[str, ...]:
    """What runs of one row share."""
    card = run.summary.run
    model = card.student.fingerprint if card.kind == "eval" and card.student else ""
    shared = card.settings or model  # an init has settings: each training seed makes its own
    return card.method, card.variant, card.regime, card.division, shared


def row_of(runs: Sequence[Run], *, again: bool = False) -> GroupedRow:
    """The row of runs that differ in their training seed; ``again``: see `Row`."""
    runs = sorted(runs, key=lambda run: run.summary.run.training_seed or 0)
    card = runs[0].summary.run
    label = f"{card.method} {card.variant}".strip()
    if card.kind == "run" and card.division == "open":
        label += " (open)"
    if card.division == "outside":
        label += " (outside)"
    tuning = _tuning(runs)
    more = ["…"] if len(card.changes) > SHOWN else []
    said = [tuning] if tuning.startswith(TUNED) else [*card.changes[:SHOWN], *more]
    label = ", ".join([label, *(["paper"] if tuning == "paper" else []), *said])
    if again:
        label += f" (seed {card.training_seed} again)"
    shared = ("kind", "method", "variant", "regime", "division", "changes")
    seeds = [run.summary.run.training_seed for run in runs]
    ids = [run.summary.run.id for run in runs]
    row = Row(
        id=hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12],
        label=label,
        broken=list(dict.fromkeys(name for run in runs for name in run.broken)),
        student=card.student.name if card.student else "",
        tuning=tuning,
        training_seeds=[seed for seed in seeds if seed is not None],
        runs=ids,
        again=again,
        **{name: getattr(card, name) for name in shared},
    )
    return GroupedRow(row, tuple(runs))


def _tuning(runs: Sequence[Run]) -> str:
    """How the settings of runs of one row were found; a search's word counts for all of them."""
    cards = [run.summary.run for run in runs]
    if cards[0].kind == "eval" or cards[0].division == "outside":
        return ""
    said = [card.tuning for card in cards if card.tuning.startswith(TUNED)]
    return next(iter(said), "paper" if cards[0].regime == "paper" else "default")


def standing(rows: Sequence[GroupedRow]) -> list[GroupedRow]:
    """Of several rows of a method those that may stand for it; one, unless they are equally plain.

    A closed row before an open one, what a search found before the suite's settings before changed ones,
    then the most training seeds, and no seed once more.
    """

    def worth(each: GroupedRow) -> tuple[bool, bool, bool, int, bool]:
        row = each.row
        return (row.division == "closed", row.searched, row.plain, len(each.runs), not row.again)

    most = max(map(worth, rows))
    return [each for each in rows if worth(each) == most]


def short_ids(rows: Sequence[GroupedRow]) -> list[str]:
    """The id of each row's first run, cut to as few digits (at least four) as tell them apart."""
    ids = [each.row.runs[0] for each in rows]
    length = next((n for n in range(4, 13) if len({i[:n] for i in ids}) == len(ids)), None)
    return [i[:length] for i in ids]


def _distinct(rows: list[GroupedRow]) -> list[GroupedRow]:
    """Rows whose labels would be the same get the id of their first run, as short as it can be."""
    made: list[GroupedRow] = []
    for label, alike in grouped(rows, lambda each: each.row.label).items():
        for each, digits in zip(alike, short_ids(alike), strict=True):
            name = f"{label} {digits}" if len(alike) > 1 else label
            made.append(each._replace(row=each.row.model_copy(update={"label": name})))
    return made


def _order(row: Row) -> tuple[bool, int, str, str]:
    name = row.method.lower()
    known = REFERENCE_ORDER.index(name) if name in REFERENCE_ORDER else len(REFERENCE_ORDER)
    return (not row.reference, known if row.reference else 0, row.label, row.id)
