"""A leaderboard as data: what every renderer draws and what ``--format json`` prints."""

from typing import Literal, NamedTuple

from kdbench.harness.files.records import Missing, Record


class ColumnKey(NamedTuple):
    """What evaluations share that stand in one column, whatever their metric."""

    task: str
    edition: str
    protocol: str
    digest: str
    """``EvaluationScores.column``."""
    judge: str = ""
    """Id of the judge whose values these are."""


class Column(Record):
    """One metric of one task edition under one protocol; never a mixture."""

    id: str
    task: str
    edition: str
    protocol: str
    metric: str
    identity: str
    """Digest of what the evaluations of this column share, and the judge behind a blank."""
    heading: str
    """Task, edition and, where the table needs them to differ, protocol and identity."""

    @property
    def key(self) -> ColumnKey:
        """The evaluations whose metric this is."""
        digest, _, judge = self.identity.partition(" ")
        return ColumnKey(self.task, self.edition, self.protocol, digest, judge)


class Row(Record):
    """A model, or a method over its training seeds."""

    id: str
    label: str
    kind: Literal["run", "eval"]
    method: str
    variant: str
    regime: str
    division: Literal["closed", "open", "reference"]
    broken: list[str] = []
    """Names of the fair-comparison rules that put the row into the open division."""
    student: str
    changes: list[str] = []
    """What the command changed in its suite's training, as ``setting=value``."""
    training_seeds: list[int]
    runs: list[str]
    """Ids of the runs behind the row, in the order of ``training_seeds``."""

    @property
    def reference(self) -> bool:
        """Whether the row is there to compare with and takes no part in the ranking."""
        return self.kind == "eval" or self.division == "reference"


class Cell(Record):
    """A mean with its 95% interval; without one where none was measured."""

    mean: float
    low: float | None
    high: float | None
    n_prompts: int
    n_runs: int
    decoding_seeds: list[int] = []
    bold: bool = False
    note: str = ""


class PairTest(Record):
    """Row ``a`` minus row ``b`` in one column, over the prompts both answered."""

    a: str
    b: str
    difference: float
    p: float
    p_holm: float
    n_prompts: int
    seeds_measured: bool


class Table(Record):
    """All rows that share a suite, a teacher and a student."""

    suite: str
    teacher: str
    student: str
    columns: list[Column]
    rows: list[Row]
    cells: list[list[Cell | Missing]]
    """One list a row, in the order of ``columns``."""
    pairs: list[list[PairTest]]
    """One list a column."""
    notes: list[str]
    signature: str

    @property
    def title(self) -> str:
        """Suite and pair in words."""
        pair = f"{self.teacher} → {self.student}" if self.teacher and self.student else ""
        return f"{self.suite}: {pair}" if pair else self.suite


class Board(Record):
    """A leaderboard."""

    tables: list[Table]
    left_out: list[str] = []
