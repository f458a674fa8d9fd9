"""Runs checks in order, and remembers by content what came of them."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdbench.harness.errors import InputError, KdbenchError
from kdbench.harness.files.records import Record
from kdbench.harness.files.store import read_record, write_json
from kdbench.harness.foreign import foreign
from kdbench.harness.identity import digest
from kdbench.harness.preflight import forward, positions, rows, sampling, template, tokens
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject
from kdbench.harness.provenance import source_folders, tree_sha256

MODEL_CHECKS: Mapping[str, Callable[[Subject], Iterator[Finding]]] = {
    "positions": positions.check,
    "template": template.check,
    "tokens": tokens.check,
    "forward": forward.check,
    "rows": rows.check,
    "sampling": sampling.check,
}
"""What is looked at of one model, the cheapest first: a failure stops those behind it."""


class Flight(Record):
    """What a preflight found, and how long it took when it was made."""

    findings: list[Finding]
    wall_s: float
    remembered: bool = False

    @property
    def failure(self) -> Finding | None:
        """What stops the run."""
        return next((f for f in self.findings if f.state == "fail"), None)


def fly(
    checks: Mapping[str, Callable[[], Iterator[Finding]]],
    *,
    whose: str,
    parts: Mapping[str, Any],
    cache: Path,
) -> Flight:
    """Runs checks until one fails, or recalls what they found of the same thing before.

    Args:
        checks: by name; what they raise is a failure.
        whose: what sentences call the thing that is looked at.
        parts: all that decides the outcome, except our code and the libraries, which are added.
        cache: where outcomes without failure are kept.
    """
    path = cache / "preflight" / f"{digest([parts, _circumstances()])[:32]}.json"
    with contextlib.suppress(InputError):
        if path.is_file():
            return read_record(path, Flight).model_copy(update={"remembered": True})
    began = time.monotonic()
    findings: list[Finding] = []
    for name, check in checks.items():
        findings += _tried(name, check, whose)
        if any(finding.state == "fail" for finding in findings):
            break
    flight = Flight(findings=findings, wall_s=round(time.monotonic() - began, 2))
    if flight.failure is None:
        with contextlib.suppress(InputError):  # a cache that cannot be written costs time only
            write_json(path, flight)
    return flight


def _tried(name: str, check: Callable[[], Iterator[Finding]], whose: str) -> Sequence[Finding]:
    try:
        with foreign(f"{whose} fails its check {name!r}", "choose another model"):
            return list(check())
    except KdbenchError as error:
        return [Finding(name, str(error), "fail")]


def model_flight(subject: Subject, cache: Path) -> Flight:
    """The preflight of one model."""
    checks = {name: functools.partial(check, subject) for name, check in MODEL_CHECKS.items()}
    card = subject.card
    parts = {
        "role": subject.role,
        "name": card.name,
        "model": card.fingerprint,
        "tokenizer": card.tokenizer,
        "dtype": str(subject.dtype),
        "device": subject.device.type,
        "tokens": subject.tokens,
        "form": asdict(subject.form),
    }
    return fly(checks, whose=subject.name, parts=parts, cache=cache)


@functools.cache
def _circumstances() -> dict[str, str]:
    """Our code and the libraries that compute."""
    folders = source_folders()
    ours = {"trainers": folders["trainers"]}
    ours |= {name: folders["harness"] / name for name in ("preflight", "data")}
    return {
        "code": tree_sha256(ours),
        **{name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
