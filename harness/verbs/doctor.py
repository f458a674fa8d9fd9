"""``kdbench doctor``: what this machine offers, and what a run would trip over."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.verbs import options
from kdbench.reports.text.document import Document, Section, Table

if TYPE_CHECKING:
    from kdbench.harness.config import Request

BF16_SIZE = 768  # rows of the square matrices whose product is timed


def doctor(
    runs_dir: options.RunsDir = options.RUNS,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    network: Annotated[bool, typer.Option(help="Look whether the hub can be reached.")] = True,
    *,
    pair: options.Pair,
    method: options.MethodName = "fkd",
    suite: options.Suite = "mini",
    set_: options.Set = None,
    json_output: options.Json = False,
) -> None:
    """Check this machine; with --teacher or --student also what a run of them would trip over.

    The pair is tried as ``kdbench run`` with the same flags tries it, before it trains anything.
    """
    options.calm_libraries()
    from kdbench.reports.text.terminal import show

    machine = [check_versions(), check_device(device), check_memory()]
    checks = [*machine, check_folders(runs_dir), check_data(data_dir)]
    checks += [check_hub()] if network else []
    if pair.teacher or pair.student:
        from kdbench.harness.config import Request
        from kdbench.harness.files.folders import cache_folder
        from kdbench.harness.files.store import make_folder
        from kdbench.harness.resolve import resolve

        flags = pair.settings()
        config = resolve(suite=suite, method=method, assignments=set_ or (), flags=flags)
        request = Request(
            config=config,
            cache_dir=make_folder(cache_folder()),
            quiet=True,
            runs_dir=runs_dir,
            data_dir=data_dir,
            device=device,
        )
        checks.append(check_pair(request, pair.teacher, pair.student))
    findings: list[Finding] = []
    for check in checks:  # each is made and shown in its turn: some take seconds
        found = list(check)
        findings += found
        if not json_output:
            show(doctor_document(found))
    if json_output:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    raise typer.Exit(1 if any(finding.state == "fail" for finding in findings) else 0)


def doctor_document(findings: Sequence[Finding]) -> Document:
    """A line each, aligned with those of other checks."""
    rows = [[f"{state:4}", f"{what:12}", found] for what, found, state in findings]
    return Document("", [Section("", [Table([], rows)])])


def check_versions() -> Iterator[Finding]:
    """Installed versions, and the state of our own code."""
    from kdbench.harness.provenance import code_state
    from kdbench.harness.versions import versions

    found = versions()
    yield Finding("versions", ", ".join(f"{k} {v}" for k, v in found.items()))
    missing = {"torch", "transformers", "accelerate", "lm-eval"} - found.keys()
    if missing:
        names = ", ".join(sorted(missing))
        yield Finding("packages", f"not installed: {names}; pip install kdbench", "fail")
    code = code_state()
    if code.commit:
        changes = "with uncommitted changes" if code.diff else "clean"
        yield Finding("code", f"commit {code.commit[:12]}, {changes}")
    else:
        yield Finding("code", f"no git commit (sha256 {code.sha256[:12]})")


def check_device(asked: str) -> Iterator[Finding]:
    """The torch device, and whether bfloat16 is faster there than float32: measured."""
    import torch

    from kdbench.harness.session import chosen_device

    try:
        device = str(chosen_device(asked))
    except InputError as error:
        yield Finding("device", str(error), "fail")
        return
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"
    yield Finding("device", f"{device} ({name}), {torch.get_num_threads()} threads")
    try:
        single = _product_rate(device, torch.float32)
        half = _product_rate(device, torch.bfloat16)
    except RuntimeError as error:
        yield Finding("bf16", f"cannot be measured ({error}); precision auto is fp32", "warn")
        return
    faster = "faster" if half > 1.2 * single else "no faster; consider --set train.precision=fp32"
    yield Finding("bf16", f"{half:.0f} GFLOP/s against {single:.0f} in fp32: {faster}")


def _product_rate(device: str, dtype: "object") -> float:
    """Matrix-product rate in GFLOP/s, best of a few tries."""
    import torch

    a = torch.ones(BF16_SIZE, BF16_SIZE, device=device).to(dtype)  # type: ignore[call-overload]
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        b = a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    assert b.shape == a.shape
    return 2 * BF16_SIZE**3 / best / 1e9


def check_memory() -> Iterator[Finding]:
    """Main memory and cores."""
    from kdbench.harness.provenance import available_cores, total_memory

    gigabytes = total_memory() / 2**30
    found = f"{gigabytes:.1f} GiB, {available_cores()} cores"
    if gigabytes >= 4:
        yield Finding("memory", found)
    else:
        yield Finding("memory", f"{found}; enough for the mini suite only", "warn")


def check_folders(runs_dir: Path) -> Iterator[Finding]:
    """Whether runs and cache can be written, and the space there."""
    from kdbench.harness.files.folders import cache_folder

    for what, folder in (("runs", runs_dir), ("cache", cache_folder())):
        existing = folder.resolve()
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(what, f"{folder} cannot be written; choose another place", "fail")
            continue
        free = shutil.disk_usage(existing).free / 2**30
        yield Finding(what, f"{folder} ({free:.1f} GiB free)", "ok" if free >= 2 else "warn")


def check_data(data_dir: Path | None) -> Iterator[Finding]:
    """The folder of real data sets, if one is named."""
    if data_dir is None:
        yield Finding("data", "no data folder named; real data comes from the hub")
    elif not data_dir.is_dir():
        yield Finding("data", f"no folder {data_dir}; see --data-dir and KDBENCH_DATA", "fail")
    else:
        names = sorted(path.name for path in data_dir.iterdir() if path.is_dir())
        found = f"{data_dir}: {', '.join(names) or 'no data sets'}"
        yield Finding("data", found, "ok" if names else "warn")


def check_hub() -> Iterator[Finding]:
    """Whether the Hugging Face hub answers, within seconds."""
    from kdbench.harness.data.hub import reachable

    if reachable():
        yield Finding("hub", "reachable")
    else:
        yield Finding("hub", "not reachable (or offline mode); local models and data only", "warn")


def check_pair(request: "Request", teacher: str | None, student: str | None) -> Iterator[Finding]:
    """The preflight of a run, or of one model if only one is named."""
    from kdbench.harness.runner.inspection import inspect

    yield from inspect(request, teacher, student)
