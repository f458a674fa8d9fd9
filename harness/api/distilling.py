"""``kdbench.distill``: from a teacher, a student and a file to the best student and a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from kdbench.harness.api.calls import Settings, assignments, calm_libraries, existing_data, names
from kdbench.harness.api.results import Board, Made
from kdbench.harness.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from kdbench.harness.study.command import StudyRequest
    from kdbench.harness.study.distill.command import Distilled as Result

DISTILLED = Path("distilled")
"""Where comparisons go that name no folder."""


@dataclass(frozen=True)
class Distilled:
    """A finished comparison.

    Attributes:
        out: its folder: ``suite.yaml`` (all settings), ``runs``, ``board``, ``logs``.
        result: what was found, `kdbench.harness.study.distill.command.Distilled`.
    """

    out: Path
    result: "Result"

    @property
    def winner(self) -> Made:
        """The run of the method with the highest score."""
        return Made(self.result.outcome.winner, self._references(), (self.result.task,))

    @property
    def student(self) -> Path:
        """The winner's model, an ordinary Hugging Face folder."""
        return self.result.outcome.student

    @property
    def decided(self) -> bool:
        """Whether the winner is better than every other method, also if all were trained again.

        Else those of `best` cannot be told apart, or too few training seeds were there to know.
        """
        return self.result.outcome.decided

    @property
    def best(self) -> list[str]:
        """The methods that may be the best on the test rows, the highest score first."""
        return self.result.outcome.best

    @property
    def lines(self) -> list[str]:
        """The verdict, and what to know before using the winner: a teacher below the init, say."""
        return self.result.outcome.lines

    @property
    def failures(self) -> list[str]:
        """Methods that could not be trained, and why."""
        return [f"{f.name}: {f.reason} (log: {f.log})" for f in self.result.failures]

    @property
    def board(self) -> Board:
        """All methods beside teacher and inits."""
        return Board(tuple(self.result.folders), (self.result.task,))

    @property
    def table(self) -> "pd.DataFrame":
        """`Board.table`: means, references first."""
        return self.board.table

    @property
    def scores(self) -> "pd.DataFrame":
        """`Board.scores`: with intervals."""
        return self.board.scores

    @property
    def samples(self) -> "pd.DataFrame":
        """`Made.samples` of the winner."""
        return self.winner.samples

    def report(self) -> Path:
        """The page with everything in it, written when the comparison ended."""
        from kdbench.harness.study.distill.command import page_of

        return page_of(self.out)

    def as_json(self) -> dict[str, Any]:
        """The result as plain data, as ``kdbench distill --json`` prints it."""
        return self.result.as_json()

    def __str__(self) -> str:
        from kdbench.harness.study.distill.command import said

        return said(self.result)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.board._repr_html_()

    def _references(self) -> tuple[Path, ...]:
        return tuple(f for r in self.result.outcome.rows if r.reference for f in r.folders)


class Making(TypedDict, total=False):
    """Where and by whom runs are made, and what is printed; none of it changes a result."""

    device: str
    """``auto``, ``cpu``, ``cuda`` …"""
    executor: str
    """local, ray or slurm, with settings after a colon."""
    jobs: int | None
    """Runs at once."""
    quiet: bool
    """No progress."""
    say: bool
    """Print what was understood, and the outcome; default: yes."""
    told: Callable[[dict[str, Any]], None]
    """Given what was understood and chosen, as plain data, before anything is trained."""


def distill(
    teacher: str | Path,
    student: str | Path,
    data: str | Path,
    *,
    eval: str | Path | None = None,
    methods: str | Sequence[str] = "auto",
    budget: str | None = None,
    out: str | Path | None = None,
    columns: str | Mapping[str, str] | None = None,
    seeds: Sequence[int] = (10,),
    settings: Settings | None = None,
    dry_run: bool = False,
    **making: Unpack[Making],
) -> Distilled | None:
    """Distils a teacher into a student on rows of one's own, by several methods, and names the best.

    Settings follow from the models' sizes and the data (suite ``own``); all methods start from one
    init and have one budget. The same call continues what was interrupted and repeats nothing.

    Args:
        teacher: hub id, folder or .gguf file.
        student: the same, ``prune:N`` (N of the teacher's layers) or a config.json to initialise.
        data: rows to learn from: a file, a folder, or ``name:config:split`` of the hub.
        eval: rows to judge by; None: held out of ``data``.
        methods: names; ``auto``: by what the pair and the budget allow.
        budget: ``2h``, ``30m`` for all methods together; ``3ep``, ``5Mtok`` for each; None: by the rows.
        out: folder of all that is made; None: ``distilled/STUDENT-DATA``.
        columns: part of a row -> column (``prompt=a,response=b``); None: by convention.
        seeds: training seeds; with one it is only said who is ahead on the test rows.
        settings: any setting, over those chosen: ``{"train.lr": 1e-4}``.
        dry_run: only say what was understood and chosen; nothing is returned.
        making: see `Making`.

    Raises:
        InputError: models or data that cannot be used, an unknown method, a budget too small.
        CellFailed: no method could be trained.
    """
    calm_libraries()
    from kdbench.harness.study.distill.budget import parse_budget
    from kdbench.harness.study.distill.command import distill_command
    from kdbench.harness.study.distill.preparation import DistillRequest

    folder = Path(out) if out is not None else default_folder(str(student), str(data))
    request = DistillRequest(
        teacher=str(teacher),
        student=str(student),
        data=str(data),
        test=None if eval is None else str(eval),
        methods=None if methods == "auto" else tuple(names(methods) or ()),
        budget=parse_budget(budget),
        seeds=tuple(seeds),
        columns=_columns(columns),
        out=folder,
        making=_study(folder, assignments(settings), making),
        talkative=making.get("say", True),
        told=making.get("told"),
    )
    found = distill_command(request, dry_run=dry_run)
    return None if found is None else Distilled(folder, found)


def default_folder(student: str, data: str) -> Path:
    """Where a comparison goes that names no folder."""
    from kdbench.harness.config import slug
    from kdbench.harness.data.places import stem

    return DISTILLED / f"{slug(student.replace(':', '-'))}-{slug(stem(data))}"


def _columns(columns: str | Mapping[str, str] | None) -> dict[str, str]:
    from kdbench.harness.data.parts import columns_given

    try:
        named: dict[str, str] = columns_given(columns or {})
    except ValueError as error:
        raise InputError(f"--columns {columns}: {error}") from error
    return named


def _study(folder: Path, settings: Sequence[str], making: Making) -> "StudyRequest":
    """How the study engine is asked: all below one folder, a failed method stops no other."""
    from kdbench.harness.study.command import StudyRequest

    return StudyRequest(
        name="distill",
        changes={},
        settings=tuple(settings),
        runs_dir=folder / "runs",
        data_dir=existing_data(None),
        device=making.get("device", "auto"),
        accept_drift=False,
        executor=making.get("executor", "local"),
        jobs=making.get("jobs"),
        keep_going=True,
        out=folder,
        json_output=False,
        quiet=making.get("quiet", False),
    )
