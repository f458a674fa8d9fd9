"""``kdbench clean``: disk given back, without changing what boards show."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.harness.verbs import options
from kdbench.reports.text.document import Document, Notes, Section, Table

if TYPE_CHECKING:
    from kdbench.harness.files.cleaning import Waste

ALWAYS = "leftovers"


def clean(
    *,
    students: Annotated[
        bool,
        typer.Option(
            "--students",
            help="Also the weights of students of finished runs: scores, answers and boards stay, "
            "but such a student can be asked nothing more.",
        ),
    ] = False,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Also shared results, comma-separated: teachers, inits, base, teacher-answers, "
            "preflight, known, studies, board; or all. They are made again when needed."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go and how much it is.")
    ] = False,
    runs: options.Runs,
) -> int:
    """Give disk back: what finished runs no longer need, and on request students and caches.

    Runs that go on or are not over keep everything.
    """
    from kdbench.harness.files.cleaning import cache_kinds, remove, waste_of_cache, waste_of_run
    from kdbench.harness.files.folders import cache_folder
    from kdbench.harness.files.run_folder import find_runs

    kinds = cache_kinds(options.name_list(cache, "--cache") or [])
    places = runs.runs or ([runs.runs_dir] if runs.runs_dir.is_dir() else [])
    found = [waste for run in find_runs(places) for waste in waste_of_run(run)]
    found += waste_of_cache(cache_folder())
    wanted = {ALWAYS, *kinds, *(["students"] if students else [])}
    going = [waste for waste in found if waste.kind in wanted]
    problems = [] if dry_run else remove(going)
    result = {
        "removed" if not dry_run else "would_remove": [_plain(waste) for waste in going],
        "bytes": sum(waste.size for waste in going),
        "kept": {kind: size for kind, (_, size) in sums(found).items() if kind not in wanted},
        "problems": problems,
    }
    document = clean_document(found, wanted, dry_run=dry_run)
    options.deliver(document, result, json_output=runs.json_output)
    for problem in problems:
        typer.echo(f"kdbench: not removed: {problem}", err=True)
    return 1 if problems else 0


def sums(found: "Sequence[Waste]") -> dict[str, tuple[int, int]]:
    """Number of things and their bytes, by kind."""
    counted: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for waste in found:
        number, size = counted[waste.kind]
        counted[waste.kind] = number + 1, size + waste.size
    return dict(counted)


def clean_document(found: "Sequence[Waste]", wanted: set[str], *, dry_run: bool) -> Document:
    """What goes in a row each, then what else could go and by which flag."""
    going = [waste for waste in found if waste.kind in wanted]
    rows = [[waste.what, str(waste.path), megabytes(waste.size)] for waste in going]
    total = megabytes(sum(waste.size for waste in going))
    notes = [f"{'would give back' if dry_run else 'gave back'} {total}"]
    for kind, (number, size) in sums(found).items():
        if kind not in wanted:
            flag = "--students" if kind == "students" else f"--cache {kind}"
            notes.append(f"{flag}: {megabytes(size)} more ({number})")
    table = [Table(["what", "where", "size"], rows, right=(2,))] if rows else []
    return Document("", [Section("", [*table, Notes(notes)])])


def megabytes(size: int) -> str:
    """A size in MB, or GB where it is many."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _plain(waste: "Waste") -> dict[str, Any]:
    return {
        "kind": waste.kind,
        "path": str(waste.path),
        "what": waste.what,
        "bytes": waste.size,
        "run": waste.run.name if waste.run else None,
    }
