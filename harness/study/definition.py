"""What a study is: a YAML file that stands for a list of labelled runs.

A study is a ``base`` and what is varied: ``rows`` (a label and what it sets), ``axes`` (all
combinations of their choices) or ``methods`` (and ``rows`` of theirs beside them). Each row times each
training seed is one command line of ``kdbench run``, so a study shares its runs with whoever
else asks for them.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, TypeAdapter, field_validator, model_validator

from kdbench.harness.config import RunConfig, Section
from kdbench.harness.errors import InputError
from kdbench.harness.files.shipped import STUDIES
from kdbench.harness.identity import digest
from kdbench.harness.registry import method_names

Settings = tuple[str, ...]
Values = dict[str, float]


def _yaml(value: Any) -> str:
    """A value as ``--set`` writes it."""
    return value if isinstance(value, str) else json.dumps(value)


class StudyRow(Section):
    """One thing to compare: the base with these settings, or another method."""

    label: str = Field(min_length=1)
    set: Settings = Field((), description="section.key=value, as of --set")
    method: str | None = Field(None, description="instead of the study's")


class Study(Section):
    """A study file."""

    title: str
    paper: str = ""
    suite: str = "mini"
    method: str = Field("", description="of the rows that name none")
    seeds: tuple[int, ...] = Field((10, 20, 30), min_length=1, description="training seeds")
    tasks: tuple[str, ...] | None = Field(
        None, description="none: the suite's; an empty list: students are trained and not evaluated"
    )
    set: Settings = Field((), description="of all rows")
    base: str | None = Field(None, description="label all others are compared with; none: a board")
    rows: tuple[StudyRow, ...] = ()
    axes: dict[str, dict[str, Settings]] = Field(
        {},
        description="axis -> choice -> settings; or a setting -> its values, as train.lr: [1e-4, 1e-3]",
    )
    methods: Literal["all"] | tuple[str, ...] = Field(
        (), description="a row for each, under each choice of the axes"
    )
    published: dict[str, Values] = Field(
        {}, description="label -> task/metric -> the paper's own number"
    )
    published_pair: str = Field("", description="models and tables that those numbers are of")

    @field_validator("axes", mode="before")
    @classmethod
    def _written_out(cls, axes: Any) -> Any:
        """An axis that is a setting with its values, as choices."""
        if not isinstance(axes, Mapping):
            return axes
        return {
            key: {f"{key.rpartition('.')[2]}={v}": (f"{key}={_yaml(v)}",) for v in values}
            if isinstance(values, list)
            else values
            for key, values in axes.items()
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.rows or self.axes or self.methods):
            raise ValueError("give rows, methods or axes")
        bare = bool(self.axes) and not self.methods
        if not self.method and (bare or not all(row.method for row in self.rows)):
            raise ValueError("name the method")
        labels = [row.label for row in self.all_rows()]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"label {twice[0]!r} twice")
        if self.base is not None and self.base not in labels:
            raise ValueError(f"base {self.base!r} is no row; choose from {', '.join(labels)}")
        for label in self.published:
            if label not in labels:
                raise ValueError(f"published: {label!r} is no row")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must be distinct")
        for row in self.all_rows():
            for setting in row.set:
                if setting.startswith(("tasks.", "generate.", "train.seed=")):
                    raise ValueError(
                        f"row {row.label!r} sets {setting}; rows differ in their training and are "
                        "evaluated alike, so seeds, tasks and generate.* belong to the whole study"
                    )
        return self

    def all_rows(self) -> list[StudyRow]:
        """Every method under every combination of the axes' choices, then the rows."""
        methods = method_names() if self.methods == "all" else self.methods
        rows = []
        for method in methods or ((None,) if self.axes else ()):
            for choice in itertools.product(*(axis.items() for axis in self.axes.values())):
                settings = tuple(setting for _, some in choice for setting in some)
                names = [*([method] if method else []), *(name for name, _ in choice)]
                rows.append(StudyRow(label=", ".join(names), set=settings, method=method))
        return [*rows, *self.rows]


class Cell(Section):
    """One row under one training seed: one run."""

    label: str
    seed: int
    arguments: tuple[str, ...] = Field(description="its verb with these makes it")
    config: RunConfig

    @property
    def verb(self) -> str:
        """``run``, or ``train`` where nothing is asked of the student."""
        return "run" if self.config.tasks.names else "train"

    @property
    def key(self) -> str:
        """Hex digest of all that was configured; equal cells are one run."""
        return digest(self.config)

    @property
    def name(self) -> str:
        """For lines that people read."""
        return f"{self.label}, seed {self.seed}"


CELLS = TypeAdapter(list[Cell])
"""Cells as JSON."""


def load_study(name: str) -> Study:
    """A shipped study by name, or a ``.yaml`` file.

    Raises:
        InputError: no such study, not YAML, or not a study.
    """
    return STUDIES.load(name, Study)


def changed(study: Study, changes: Mapping[str, Any]) -> Study:
    """The study with other fields; those that are None stay."""
    given = {key: value for key, value in changes.items() if value is not None}
    return Study.model_validate(study.model_dump() | given) if given else study


def expand(study: Study, settings: Sequence[str] = ()) -> list[Cell]:
    """All runs of a study, seed by seed, so that a first table comes after the first seed.

    Args:
        study: the study.
        settings: ``--set`` of the command line, over the study's and under each row's.

    Raises:
        InputError: a row asks for what does not exist; the sentence names the row.
    """
    from kdbench.harness.resolve import resolve

    cells = []
    for seed, row in itertools.product(study.seeds, study.all_rows()):
        method = row.method or study.method
        assignments = [*study.set, *settings, *row.set]
        try:
            config = resolve(
                suite=study.suite,
                method=method,
                assignments=assignments,
                flags={"train.seed": seed, "tasks.names": study.tasks},
            )
        except InputError as error:
            raise InputError(f"row {row.label!r} of the study: {error}") from error
        arguments = ["--suite", study.suite, "--method", method, "--seed", str(seed)]
        if study.tasks:
            arguments += ["--tasks", ",".join(config.tasks.names)]
        arguments += [part for text in assignments for part in ("--set", text)]
        cells.append(Cell(label=row.label, seed=seed, arguments=tuple(arguments), config=config))
    return cells
