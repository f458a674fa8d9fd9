"""Options that several verbs share. Nothing heavy is imported here: ``kdbench --help`` reads it.

Options that verbs take together are a `Group`: a new one of them is one line here, with the
configuration key that it sets, if any.
"""

import copy
import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, get_type_hints

import typer
from typer.models import OptionInfo

from kdbench.harness.api.calls import calm_libraries as calm_libraries
from kdbench.harness.api.named import exact_run as exact_run
from kdbench.harness.api.named import named_run as named_run
from kdbench.harness.errors import InputError
from kdbench.reports.text.document import Document

if TYPE_CHECKING:
    from kdbench.harness.api.results import Made
    from kdbench.harness.config import Request, RunConfig
    from kdbench.harness.study.command import StudyRequest


def name_list(names: str | None, flag: str) -> list[str] | None:
    """``dolly, selfinst`` as a list without repetitions; None stays None."""
    if names is None:
        return None
    listed = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not listed:
        raise InputError(f"{flag} names nothing; give names separated by commas")
    return listed


def number_list(numbers: str | None, flag: str) -> list[int] | None:
    """``10, 20`` as a list of whole numbers; None stays None."""
    names = name_list(numbers, flag)
    wrong = [name for name in names or () if not name.isdecimal()]
    if wrong:
        raise InputError(f"{flag} takes whole numbers separated by commas, got {wrong[0]!r}")
    return None if names is None else list(map(int, names))


# -- options of one verb or another -----------------------------------------------------------------

Suite = Annotated[str, typer.Option(help="Protocol: a name (kdbench ls suites) or a YAML file.")]
MethodName = Annotated[
    str, typer.Option("--method", help="A name (kdbench ls methods) or a .py file.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated."),
]
TASKS = typer.Option(
    help="Tasks, comma-separated: names (kdbench ls tasks, or any of lm-eval's), own/test.jsonl or "
    "name=own/test.jsonl; default: the suite's."
)
RunsDir = Annotated[Path, typer.Option(help="Folder of run folders.")]
DataDir = Annotated[
    Path | None, typer.Option(envvar="KDBENCH_DATA", help="Folder of real data sets.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress lines.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Track = Annotated[
    str | None,
    typer.Option(
        envvar="KDBENCH_TRACK",
        help="Tell trackers of the training, comma-separated: tensorboard, trackio, wandb; default: nobody.",
    ),
]
RunName = Annotated[Path, typer.Argument(help="Run folder, or its name (or a part) in --runs-dir.")]
Format = Annotated[str, typer.Option("--format", help="terminal, md, latex, csv, html or json.")]
Out = Annotated[Path | None, typer.Option(help="File to write.")]

RUNS = Path("runs")


# -- groups of options ------------------------------------------------------------------------------


class Sets(NamedTuple):
    """The configuration key that an option sets, and how its text is read (text, flag -> value)."""

    key: str
    read: Callable[[str | None, str], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Options that verbs take together; each field is one."""

    TITLE: ClassVar[str] = "Options"
    """What help calls them."""

    def settings(self) -> dict[str, Any]:
        """Values by the configuration key that they set."""
        found = {}
        hints = get_type_hints(type(self), include_extras=True)
        for name, hint in ((field.name, hints[field.name]) for field in fields(self)):
            value = getattr(self, name)
            for sets in (part for part in hint.__metadata__ if isinstance(part, Sets)):
                flag = f"--{name.replace('_', '-')}"
                found[sets.key] = sets.read(value, flag) if sets.read else value
        return found


@dataclass(frozen=True, kw_only=True)
class Runs(Group):
    """Which runs are read, and how the result is printed."""

    TITLE: ClassVar[str] = "Which runs, and how they are shown"

    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, or folders of runs.", show_default=False),
    ] = None
    runs_dir: RunsDir = RUNS
    json_output: Json = False

    @property
    def places(self) -> list[Path]:
        """Those named, else the folder of runs."""
        return self.runs or [self.runs_dir]


@dataclass(frozen=True, kw_only=True)
class Pair(Group):
    """Who is trained, and its seed."""

    TITLE: ClassVar[str] = "Models and seed"

    teacher: Annotated[
        str | None,
        typer.Option(
            help="Teacher: hub id, folder, .gguf file, or an OpenAI-compatible endpoint as https://host/v1#model."
        ),
        Sets("pair.teacher"),
    ] = None
    student: Annotated[
        str | None,
        typer.Option(
            help="Student: hub id, folder, .gguf, prune:N or a config.json to initialise."
        ),
        Sets("pair.student"),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Training seed."), Sets("train.seed")] = None


@dataclass(frozen=True, kw_only=True)
class Asked(Group):
    """What is asked, and how."""

    TITLE: ClassVar[str] = "What is asked"

    tasks: Annotated[str | None, TASKS, Sets("tasks.names", name_list)] = None
    limit: Annotated[
        int | None,
        typer.Option(help="Evaluate on the first N prompts of each task."),
        Sets("tasks.limit"),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(help="Prompt template of tasks: alpaca, chat or none; default: the pair's."),
        Sets("tasks.template"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Workplace(Group):
    """Where and how it is done; none of it changes a result."""

    TITLE: ClassVar[str] = "Where and how; no result depends on it"

    runs_dir: RunsDir = RUNS
    data_dir: DataDir = None
    device: Device = "auto"
    accept_drift: Annotated[
        bool,
        typer.Option("--accept-drift", help="Continue although code or models changed; record it."),
    ] = False
    json_output: Json = False
    quiet: Quiet = False

    def checked(self) -> dict[str, Any]:
        """All of it by name; InputError if the data folder is none."""
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise InputError(f"no data folder {self.data_dir}; give an existing one by --data-dir")
        return asdict(self)

    def request(self, config: "RunConfig", **more: Any) -> "Request":
        """A runner's request, of the command line as typed."""
        from kdbench.harness.api.calls import make_request

        return make_request(config, argv=("kdbench", *sys.argv[1:]), **self.checked(), **more)


@dataclass(frozen=True, kw_only=True)
class Making(Group):
    """How many runs are made: by whom, how many at once, and where their tables go."""

    TITLE: ClassVar[str] = "Which runs are made, and by whom"

    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run, and how long it would take.")
    ] = False
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Go on after a run that fails; list them at the end."),
    ] = False
    executor: Annotated[
        str, typer.Option(help="local, ray or slurm; settings after a colon: local:gpus=2.")
    ] = "local"
    jobs: Annotated[int | None, typer.Option(help="Runs at once.")] = None
    set_: Set = None
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of tables, figure and logs; default: beside the runs."),
    ] = None

    def request(self, name: str, work: Workplace, changes: dict[str, Any]) -> "StudyRequest":
        """What the study engine is asked."""
        from kdbench.harness.study.command import StudyRequest

        return StudyRequest(
            name=name,
            changes={key: value for key, value in changes.items() if value is not None},
            settings=tuple(self.set_ or ()),
            executor=self.executor,
            jobs=self.jobs,
            keep_going=self.keep_going,
            out=self.out,
            **work.checked(),
        )


def grouped(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb whose parameters of a `Group` are the group's options, as typer wants to see them."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {n: h for n, h in hints.items() if isinstance(h, type) and issubclass(h, Group)}
    shown = []
    for parameter in inspect.signature(verb).parameters.values():
        options = {parameter.name: (hints[parameter.name], parameter.default)}
        if group := groups.get(parameter.name):
            kinds = get_type_hints(group, include_extras=True)
            options = {
                field.name: (_titled(kinds[field.name], group.TITLE), field.default)
                for field in fields(group)
            }
        shown += [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default
            )
            for name, (kind, default) in options.items()
        ]

    @functools.wraps(verb)
    def run(**values: Any) -> Any:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return verb(**made, **values)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return run


def _titled(kind: Any, title: str) -> Any:
    """An annotated type whose option stands under a title in help."""
    parts = []
    for part in kind.__metadata__:
        if isinstance(part, OptionInfo):
            part = copy.copy(part)
            part.rich_help_panel = title
        parts.append(part)
    return Annotated[(kind.__origin__, *parts)]


# -- what verbs do alike ----------------------------------------------------------------------------


def deliver(
    document: Document,
    result: Any,
    *,
    json_output: bool,
    format_: str = "terminal",
    out: Path | None = None,
) -> None:
    """Prints a result in one of the formats, or writes it to ``out``.

    Args:
        document: what people read.
        result: what programs read, a pydantic model or plain data.
        json_output: print the result as JSON.
        format_: ``json``, or one of the document's.
        out: file to write.
    """
    from kdbench.harness.files.store import write_text
    from kdbench.harness.printing import visible_json
    from kdbench.reports.text.formats import write
    from kdbench.reports.text.terminal import show

    if json_output or format_ == "json":
        if hasattr(result, "model_dump_json"):
            result = json.loads(result.model_dump_json())
        text = visible_json(result, indent=1) + "\n"
    elif format_ == "terminal" and out is None:
        show(document)
        return
    else:
        text = write(document, format_)
    if out is None:
        typer.echo(text.rstrip("\n"))
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}")


def say_made(made: "Made | Sequence[Made]", work: Workplace) -> None:
    """The table of runs and their references, their students, who is ahead, and what to type next."""
    from kdbench.harness.api.results import beside

    several = [made] if not isinstance(made, Sequence) else made
    if not several[0].is_main:
        return
    board = beside(several)
    typer.echo(board.text("json" if work.json_output else "terminal").rstrip("\n"))
    if work.json_output:
        return
    for line in board.verdict():
        typer.echo(line)
    for each in several:
        whose = f" of {each.method}" if len(several) > 1 else ""
        typer.echo(f"folder{whose}: {each.path}")
        if each.trained:
            typer.echo(f"student{whose}: {each.student}")
    typer.echo(f"next: kdbench leaderboard {shlex.quote(str(work.runs_dir))}")
