"""How a call from Python becomes what a command line becomes: settings, circumstances, a request."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from kdbench.harness.errors import InputError

if TYPE_CHECKING:
    from kdbench.harness.config import Request, RunConfig

RUNS = Path("runs")
Settings = Mapping[str, Any] | Sequence[str]
"""Settings by dotted key (``{"train.lr": 1e-4}``), or as ``--set`` writes them (``["train.lr=1e-4"]``)."""


class Place(TypedDict, total=False):
    """Where and how something is done; none of it changes a result."""

    runs_dir: Path | str
    """Folder of run folders; default: ``runs`` in the current folder."""
    data_dir: Path | str | None
    """Folder of real data sets; None: ``KDBENCH_DATA``, else the hub."""
    device: str
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` …"""
    accept_drift: bool
    """Continue although code, init or teacher changed, and record it."""
    quiet: bool
    """No progress: neither lines nor, in a notebook, a bar."""
    track: str | None
    """Trackers that are told of a training, comma-separated: tensorboard, trackio, wandb; None: nobody."""


def make_request(
    config: "RunConfig",
    *,
    runs_dir: Path | str = RUNS,
    data_dir: Path | str | None = None,
    argv: Sequence[str] = (),
    **more: Any,
) -> "Request":
    """A runner's request; makes the folders that will be written.

    Args:
        config: the run, resolved.
        runs_dir: folder of run folders.
        data_dir: see `Place`.
        argv: the command line that the run's manifest names.
        more: other fields of `kdbench.harness.config.Request`.

    Raises:
        InputError: no such data folder, or a folder that cannot be written.
    """
    from kdbench.harness.config import Request
    from kdbench.harness.files.folders import open_cache
    from kdbench.harness.files.store import make_folder

    return Request(
        config=config,
        runs_dir=make_folder(Path(runs_dir)),
        data_dir=existing_data(data_dir),
        cache_dir=open_cache(),
        argv=tuple(argv),
        **more,
    )


def existing_data(data_dir: Path | str | None) -> Path | None:
    """The folder of data sets that was asked for, else what ``KDBENCH_DATA`` names.

    Raises:
        InputError: it is no folder.
    """
    chosen = data_dir or os.environ.get("KDBENCH_DATA")
    if chosen and not Path(chosen).is_dir():
        raise InputError(f"no data folder {chosen}; give an existing one by --data-dir")
    return Path(chosen) if chosen else None


def assignments(settings: Settings | None) -> list[str]:
    """Settings as ``--set`` writes them.

    Raises:
        InputError: one value cannot be written as YAML.
    """
    if settings is None:
        return []
    if isinstance(settings, str):
        raise InputError(f'settings={settings!r}: give a mapping, as in {{"train.lr": 1e-4}}')
    if not isinstance(settings, Mapping):
        return list(settings)
    return [f"{key}={_yaml(key, value)}" for key, value in settings.items()]


def _yaml(key: str, value: Any) -> str:
    import yaml

    if isinstance(value, Path):
        value = str(value)
    try:
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    except yaml.YAMLError as error:
        kind = type(value).__name__
        raise InputError(
            f"setting {key}: a {kind} is no text, number, list or mapping of them"
        ) from error
    return text.removesuffix("...\n").strip()


def names(value: str | Sequence[str] | None) -> list[str] | None:
    """``"dolly,selfinst"`` or ``["dolly", "selfinst"]`` as a list without repetitions; None stays None."""
    if value is None:
        return None
    listed = value.split(",") if isinstance(value, str) else list(value)
    return list(dict.fromkeys(name.strip() for name in listed if name.strip()))


def command_line(verb: str, flags: Mapping[str, Any], settings: Sequence[str]) -> tuple[str, ...]:
    """The command that does what a call from Python does: for manifests, model cards and messages.

    Args:
        verb: of ``kdbench``.
        flags: values by option, as ``--method``; None is left out.
        settings: of ``--set``.
    """
    words = ["kdbench", verb]
    for flag, value in flags.items():
        if value is not None:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return (*words, *(part for text in settings for part in ("--set", text)))


def quoted(argv: Sequence[str]) -> str:
    """A command line as a shell reads it."""
    return shlex.join(argv)


def calm_libraries() -> None:
    """Keeps the libraries' own bars and notes off the screen; what the user set stays.

    Must come before they are imported, which is why it is environment variables.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
