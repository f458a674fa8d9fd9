"""What calls return: tables as pandas, the student's folder, stored answers, reports."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.metrics import info

if TYPE_CHECKING:
    import pandas as pd

    from kdbench.reports.board import Built


@dataclass(frozen=True)
class Board:
    """Finished runs compared.

    Attributes:
        places: run folders, or folders of them.
        tasks, metrics: what is shown; None: all.
    """

    places: tuple[Path, ...]
    tasks: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None

    @cached_property
    def _built(self) -> "Built":
        from kdbench.harness.files.folders import board_cache
        from kdbench.reports.board import build

        chosen: dict[str, Any] = {"tasks": self.tasks, "metrics": self.metrics}
        return build(self.places, **chosen, cache=board_cache(), say=_say_left_out)

    @property
    def left_out(self) -> list[str]:
        """Runs that are not in it, each with the reason; damaged ones are said on standard error too."""
        return self._built.board.left_out

    @property
    def scores(self) -> "pd.DataFrame":
        """One row a number: who, on what, the mean, its 95% interval.

        Columns: ``suite``, ``teacher``, ``student``, ``row``, ``kind`` (``run`` or ``eval``),
        ``task``, ``edition``, ``protocol``, ``evaluation`` (digest of what its numbers share, and the
        judge if one gave them), ``metric``, ``mean``, ``low``, ``high``, ``prompts``, ``seeds`` (training
        seeds), ``best`` (cannot be told from the best). What is missing has no row.
        """
        import pandas as pd

        from kdbench.reports.columns import Cell

        rows = [
            {
                **{"suite": table.suite, "teacher": table.teacher, "student": table.student},
                **{"row": row.label, "kind": row.kind},
                **{"task": column.task, "edition": column.edition, "protocol": column.protocol},
                **{"evaluation": column.identity, "metric": column.metric},
                **{"mean": cell.mean, "low": cell.low, "high": cell.high},
                **{"prompts": cell.n_prompts, "seeds": len(row.training_seeds), "best": cell.bold},
            }
            for table in self._built.board.tables
            for row, cells in zip(table.rows, table.cells, strict=True)
            for column, cell in zip(table.columns, cells, strict=True)
            if isinstance(cell, Cell)
        ]
        return pd.DataFrame(rows)

    @property
    def table(self) -> "pd.DataFrame":
        """Means by row and ``task metric``; references first. A column each that tables show.

        Rows of several pairs or suites are told apart by further levels of the index.
        """
        import pandas as pd

        from kdbench.reports.columns import Cell

        several = len(self._built.board.tables) > 1
        rows = {}
        for table in self._built.board.tables:
            names = [f"{c.heading} {info(c.metric).label}" for c in table.columns]
            for row, cells in zip(table.rows, table.cells, strict=True):
                pair = (table.suite, table.teacher, table.student)
                key = (*pair, row.label) if several else row.label
                values = zip(names, cells, strict=True)
                rows[key] = {n: c.mean if isinstance(c, Cell) else float("nan") for n, c in values}
        frame = pd.DataFrame.from_dict(rows, orient="index")
        levels = ["suite", "teacher", "student", "row"]
        return frame.rename_axis(index=levels if several else "row")

    def verdict(self) -> list[str]:
        """Lines on which of several methods is ahead, and on scores below the init's."""
        from kdbench.reports.verdict import verdict

        return verdict(self._built)

    def text(self, format: str = "terminal") -> str:
        """The board as ``kdbench leaderboard`` prints it: terminal, md, csv, latex, json or html.

        Raises:
            InputError: no such format.
        """
        from kdbench.reports.board import FILES, render

        if format not in FILES:
            raise InputError(f"unknown format {format!r}; choose one of {', '.join(FILES)}")
        return render(self._built, format, False)

    def report(self, out: Path | str = "board") -> Path:
        """Writes the board in all formats into a folder; returns its page.

        Args:
            out: the folder.
        """
        from kdbench.harness.files.folders import board_cache
        from kdbench.reports.board import FILES, leaderboard_folder

        chosen: dict[str, Any] = {"tasks": self.tasks, "metrics": self.metrics}
        leaderboard_folder(self.places, Path(out), **chosen, cache=board_cache())
        return Path(out) / FILES["html"]

    def __str__(self) -> str:
        return self.text("terminal")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.table.to_html(float_format="{:.2f}".format, na_rep="")


@dataclass(frozen=True)
class Made:
    """A run, or an evaluated model, and the reference rows it stands beside.

    Attributes:
        path: its folder.
        references: folders of truth, teacher and inits.
        tasks: what was asked.
        is_main: whether this process speaks; of several that share a run, one does.
    """

    path: Path
    references: tuple[Path, ...] = ()
    tasks: tuple[str, ...] = ()
    is_main: bool = field(default=True, repr=False)

    @property
    def student(self) -> Path:
        """The trained model, an ordinary Hugging Face folder.

        Raises:
            InputError: nothing was trained here, or the training is not finished.
        """
        training = RunFolder(self.path).training
        if not training.stage.done():
            raise InputError(f"{self.path} holds no trained student; make one with kdbench.run")
        return training.student

    @property
    def trained(self) -> bool:
        """Whether a student was trained here, its weights being there or not."""
        return RunFolder(self.path).training.stage.marked()

    @property
    def method(self) -> str:
        """The method, or what tables call the evaluated model."""
        return RunFolder(self.path).summary.read().run.method

    @property
    def board(self) -> Board:
        """The run beside its references."""
        return beside([self])

    @property
    def table(self) -> "pd.DataFrame":
        """`Board.table` of the run and its references."""
        return self.board.table

    @property
    def scores(self) -> "pd.DataFrame":
        """`Board.scores` of the run and its references."""
        return self.board.scores

    @property
    def samples(self) -> "pd.DataFrame":
        """Every stored answer of this model, with its scores.

        Columns: ``task``, ``edition``, ``doc_id``, ``seed``, ``prompt``, ``references`` (a list),
        ``response``, ``tokens``, ``finished`` and each metric of a single answer.
        """
        import pandas as pd

        rows = [row for each in RunFolder(self.path).evaluations() for row in _samples(each)]
        return pd.DataFrame(rows)

    def text(self, format: str = "terminal") -> str:
        """`Board.text` of the run and its references."""
        return self.board.text(format)

    def report(self, out: Path | str | None = None) -> Path:
        """Writes the run's report, with figures; returns its page.

        Args:
            out: folder; None: ``report`` in the run folder.
        """
        from kdbench.reports.run.report import write_report

        files = write_report(self.path, out).files
        return next(file for file in files if file.suffix == ".html")

    def __str__(self) -> str:
        return f"{self.text('terminal').rstrip()}\nfolder: {self.path}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.board._repr_html_()


def _say_left_out(reason: str) -> None:
    print(f"kdbench: left out: {reason}", file=sys.stderr)


def beside(made: Sequence[Made]) -> Board:
    """Runs in one board, beside the references of all of them."""
    references = [path for each in made for path in each.references]
    tasks = dict.fromkeys(task for each in made for task in each.tasks)
    places = dict.fromkeys([*references, *(each.path for each in made)])
    return Board(tuple(places), tuple(tasks) or None)


def _samples(evaluation: Evaluation) -> Sequence[dict[str, Any]]:
    """Answers of one evaluation, each with what it scored."""
    if not evaluation.seeds():
        return []
    edition = evaluation.record.read().edition
    scores = {
        (row.doc_id, seed): {name: values[i] for name, values in row.metrics.items()}
        for row in evaluation.scores()
        for i, seed in enumerate(row.seeds)
    }
    return [
        {
            **{"task": evaluation.task, "edition": edition},
            **sample.model_dump(
                include={"doc_id", "seed", "prompt", "references", "response", "finished"}
            ),
            "tokens": sample.response_tokens,
            **scores.get((sample.doc_id, sample.seed), {}),
        }
        for sample in evaluation.samples()
    ]
