"""The line under a table that says how its numbers came about."""

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence

from kdbench.harness import stats
from kdbench.harness.files.records import Missing
from kdbench.harness.metrics import info
from kdbench.reports.group import Section
from kdbench.reports.model import Cell, Column, PairTest
from kdbench.reports.pairs import resamples_for

INTERVAL = f"95% expanded percentile bootstrap over prompts, {stats.RESAMPLES} resamples"
RNG = f"PCG64, sha256 labels, stats v{stats.STATS_VERSION}"


def table_signature(
    section: Section,
    columns: Sequence[Column],
    cells: Sequence[Sequence[Cell | Missing]],
    pairs: Sequence[Sequence[PairTest]],
) -> str:
    """One line that says how the numbers of a table came about."""
    trained = [grouped.row for grouped in section.rows if not grouped.row.reference]
    numbers = sorted({len(row.runs) for row in trained})
    prompts: dict[str, set[int]] = {}
    decoding: set[str] = set()
    for index, column in enumerate(columns):
        for row in cells:
            cell = row[index]
            if isinstance(cell, Cell):
                if info(column.metric).kind == "score":  # a probe may look at fewer
                    prompts.setdefault(column.heading, set()).add(cell.n_prompts)
                if cell.decoding_seeds:  # likelihoods and probes draw no answers
                    decoding.add(",".join(map(str, cell.decoding_seeds)))
    counts = [f"{head}={'/'.join(map(str, sorted(n)))}" for head, n in prompts.items()]
    most = max((len(column) for column in pairs), default=0)
    kinds = {pair.seeds_measured for column in pairs for pair in column}
    tests = []
    if False in kinds:
        tests.append(f"paired randomisation over prompts ({resamples_for(most)} swaps)")
    if True in kinds:
        tests.append("paired t over prompts and training seeds")
    fields = {
        "kdbench": version(),
        "suite": section.suite,
        "protocol": ",".join(sorted({column.protocol for column in columns})) or "none",
        "training seeds": seeds_text(numbers),
        "decoding seeds": " and ".join(sorted(decoding)) or "none",
        "prompts": ",".join(counts) or "none",
        "interval": interval_text(numbers),
        "test": f"{' and '.join(tests)}, Holm over at most {most} pairs a column"
        if tests
        else "none",
        "rng": RNG,
    }
    return joined(fields)


def joined(fields: Mapping[str, str]) -> str:
    """The fields of a signature as its one line."""
    return " | ".join(f"{name}: {value}" for name, value in fields.items())


def seeds_text(numbers: Collection[int]) -> str:
    """Numbers of training seeds a row, and whether the fewest are too few."""
    text = ",".join(map(str, sorted(numbers))) or "none"
    if numbers and min(numbers) < stats.MIN_TRAINING_SEEDS:
        text += f" (below {stats.MIN_TRAINING_SEEDS}: training variance unmeasured)"
    return text


def interval_text(numbers: Collection[int]) -> str:
    """What an interval of rows with so many training seeds is."""
    if numbers and max(numbers) >= stats.MIN_TRAINING_SEEDS:
        return f"{INTERVAL}, t over seed means"
    return INTERVAL


def version() -> str:
    """The installed version of kdbench."""
    try:
        return importlib.metadata.version("kdbench")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
