"""``kdbench conform``: reference numbers recomputed with our code."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.harness.errors import CheckFailed
from kdbench.harness.verbs import options
from kdbench.reports.text.document import Document, Notes, Section, Table

if TYPE_CHECKING:
    from kdbench.harness.conform.value import Value

SHOWN = 3  # numbers of an array


def conform(
    files: Annotated[list[Path], typer.Argument(help="Reference files (JSON).")],
    require: Annotated[
        str | None,
        typer.Option(help="Names that must be there and implemented, comma-separated."),
    ] = None,
    json_output: options.Json = False,
) -> None:
    """Recompute reference values with our code; exit 3 if one is off or a required one absent.

    Off: |difference| above 1e-4 of the expected number, or of a hundredth of the largest magnitude
    of its array, whichever is larger.
    """
    from kdbench.harness.conform import recompute

    options.calm_libraries()
    values = [value for file in files for value in recompute(file)]
    implemented = [value for value in values if value.ours is not None]
    wrong = [value for value in implemented if not value.passed]
    names = options.name_list(require, "--require") or []
    absent = [name for name in names if not any(called(value, name) for value in implemented)]
    rows = [value._asdict() | {"error": value.error, "passed": value.passed} for value in values]
    found = {"values": rows, "absent": absent}
    options.deliver(conform_document(values), found, json_output=json_output)
    if wrong:
        worst = max(wrong, key=lambda value: value.error)
        raise CheckFailed(
            f"{len(wrong)} of {len(implemented)} values are off, most of all {worst.name} "
            f"({worst.error:.3g} times what is tolerated)"
        )
    if absent:
        raise CheckFailed(f"required but absent: {', '.join(absent)}")


def called(value: "Value", name: str) -> bool:
    """Whether ``name`` means this value: its full name, or it without its case and part.

    ``forward_kl[0].loss`` is called ``forward_kl`` and ``forward_kl.loss``;
    ``minillm[2].returns`` also ``returns``.
    """
    head, _, rest = value.name.partition("[")
    part = rest.partition("].")[2]
    return name in (value.name, head, f"{head}.{part}", part)


def conform_document(values: Sequence["Value"]) -> Document:
    """Expected numbers beside ours, what is not implemented, and how many agree."""
    implemented = [value for value in values if value.ours is not None]
    rows = []
    for value in implemented:
        error = f"{value.error:.2g}" + ("" if value.passed else "  OFF")
        rows.append([value.name, _numbers(value.expected), _numbers(value.ours or []), error])
    agree = sum(value.passed for value in implemented)
    absent = [value.name for value in values if value.ours is None]
    notes = [f"{name}: not implemented" for name in absent]
    notes.append(f"{agree} agree, {len(rows) - agree} do not, {len(absent)} not implemented")
    table = Table(["name", "expected", "ours", "error (of tolerance)"], rows, right=(1, 2, 3))
    return Document("", [Section("", [table, Notes(notes)])])


def _numbers(numbers: Sequence[float]) -> str:
    shown = " ".join(f"{number:.6g}" for number in numbers[:SHOWN])
    return shown + (f" … ({len(numbers)})" if len(numbers) > SHOWN else "")
