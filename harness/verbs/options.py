"""Flags that several verbs share. Nothing heavy is imported here: ``kdbench --help`` reads it."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.reports.text.document import Document

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kdbench.harness.config import Request, RunConfig

Suite = Annotated[str, typer.Option(help="Protocol: a name (kdbench ls suites) or a YAML file.")]
MethodName = Annotated[
    str, typer.Option("--method", help="A name (kdbench ls methods) or a .py file.")
]
Tasks = Annotated[str | None, typer.Option(help="Tasks, comma-separated; default: the suite's.")]
Limit = Annotated[int | None, typer.Option(help="Evaluate on the first N prompts of each task.")]
Protocol = Annotated[
    str | None, typer.Option(help="Evaluation protocol: minillm-compat or strict.")
]
Probes = Annotated[
    str | None,
    typer.Option(help="exposure, calibration, loss, truth, self_bleu; comma-separated."),
]
IncludePath = Annotated[
    Path | None, typer.Option(help="Folder of further lm-eval task files (YAML).")
]
Teacher = Annotated[str | None, typer.Option(help="Teacher: hub id, folder or .gguf file.")]
Student = Annotated[
    str | None,
    typer.Option(help="Student: hub id, folder, .gguf, prune:N or a config.json to initialise."),
]
Seed = Annotated[int | None, typer.Option(help="Training seed.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated."),
]
RunsDir = Annotated[Path, typer.Option(help="Folder of run folders.")]
DataDir = Annotated[
    Path | None, typer.Option(envvar="KDBENCH_DATA", help="Folder of real data sets.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress lines.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
AcceptDrift = Annotated[
    bool, typer.Option("--accept-drift", help="Continue although code or data changed; record it.")
]
RunFolders = Annotated[
    list[Path] | None, typer.Argument(help="Run folders, or folders of runs.", show_default=False)
]

Format = Annotated[str, typer.Option("--format", help="terminal, md, latex, csv, html or json.")]
Out = Annotated[Path | None, typer.Option(help="File to write.")]

RUNS = Path("runs")


def name_list(names: str | None, flag: str) -> list[str] | None:
    """``dolly, selfinst`` as a list without repetitions; None stays None."""
    from kdbench.harness.errors import InputError

    if names is None:
        return None
    listed = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not listed:
        raise InputError(f"{flag} names nothing; give names separated by commas")
    return listed


def number_list(numbers: str | None, flag: str) -> list[int] | None:
    """``10, 20`` as a list of whole numbers; None stays None."""
    from kdbench.harness.errors import InputError

    names = name_list(numbers, flag)
    if names is None:
        return None
    for name in names:
        if not name.isdecimal():
            raise InputError(f"{flag} takes whole numbers separated by commas, got {name!r}")
    return [int(name) for name in names]


def deliver(
    document: Document,
    result: "BaseModel",
    *,
    json_output: bool,
    format_: str = "terminal",
    out: Path | None = None,
) -> None:
    """Prints a result in one of the formats, or writes it to ``out``; JSON is the result itself."""
    from kdbench.harness.files.store import write_text
    from kdbench.reports.text.formats import write
    from kdbench.reports.text.terminal import show

    if json_output or format_ == "json":
        text = result.model_dump_json(indent=1) + "\n"
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


def calm_libraries() -> None:
    """Keeps the libraries' own bars and notes off the screen; what the user set stays.

    Must come before they are imported, which is why it is environment variables.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def request(config: "RunConfig", **circumstances: Any) -> "Request":
    """A runner's request: checks the folders that will be written and adds argv and cache."""
    from kdbench.harness.config import Request
    from kdbench.harness.errors import InputError
    from kdbench.harness.files.folders import cache_folder
    from kdbench.harness.files.store import make_folder

    data_dir = circumstances.get("data_dir")
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"no data folder {data_dir}; give an existing one by --data-dir")
    make_folder(circumstances["runs_dir"])
    return Request(
        config=config,
        cache_dir=make_folder(cache_folder()),
        argv=("kdbench", *sys.argv[1:]),
        **circumstances,
    )
