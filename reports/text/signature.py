"""The line under a table that says how its numbers came about; built here and nowhere else."""

import importlib.metadata
from collections.abc import Collection, Iterable, Mapping, Sequence

from kdbench.harness import stats

INTERVAL = f"95% expanded percentile bootstrap over prompts, {stats.RESAMPLES} resamples"
INTERVAL_AND_P = (
    f"paired bootstrap interval and randomisation p over prompts ({stats.RESAMPLES} resamples)"
)
PAIRED_T = "paired t over prompts and training seeds"


def signature(
    about: Mapping[str, str],
    *,
    training: Collection[int],
    decoding: Iterable[Sequence[int]],
    prompts: Iterable[tuple[str, int]],
    how: Mapping[str, str],
) -> str:
    """One line that says how the numbers of a table came about.

    Args:
        about: suite or edition, and protocol.
        training: how many training seeds the rows have.
        decoding: the decoding seeds of each value; none where nothing is drawn.
        prompts: column, and number of prompts, of each value.
        how: intervals, tests and corrections.
    """
    seeds = sorted({",".join(map(str, drawn)) for drawn in decoding if drawn})
    counts: dict[str, set[int]] = {}
    for column, number in prompts:
        counts.setdefault(column, set()).add(number)
    said = [f"{column}={'/'.join(map(str, sorted(found)))}" for column, found in counts.items()]
    return joined(
        {
            "kdbench": version(),
            **about,
            "training seeds": _seeds(training),
            "decoding seeds": " and ".join(seeds),
            "prompts": ",".join(said),
            **how,
            "rng": f"PCG64, sha256 labels, stats v{stats.STATS_VERSION}",
        }
    )


def joined(fields: Mapping[str, str]) -> str:
    """The fields of a signature as its one line; what is empty is none."""
    return " | ".join(f"{name}: {value or 'none'}" for name, value in fields.items())


def _seeds(numbers: Collection[int]) -> str:
    """Numbers of training seeds a row, and whether the fewest are too few."""
    text = ",".join(map(str, sorted(set(numbers))))
    if numbers and min(numbers) < stats.MIN_TRAINING_SEEDS:
        text += f" (below {stats.MIN_TRAINING_SEEDS}: training variance unmeasured)"
    return text


def interval_text(numbers: Collection[int]) -> str:
    """What an interval of rows with so many training seeds is."""
    if numbers and max(numbers) >= stats.MIN_TRAINING_SEEDS:
        return f"{INTERVAL}, t over seed means"
    return INTERVAL


def tests_text(kinds: Collection[bool], over_prompts: str) -> str:
    """Which tests were made.

    Args:
        kinds: whether training seeds were measured, of each test.
        over_prompts: the test where they were not.
    """
    made = {False: over_prompts, True: PAIRED_T}
    return " and ".join(made[kind] for kind in sorted(set(kinds)))


def version() -> str:
    """The installed version of kdbench."""
    try:
        return importlib.metadata.version("kdbench")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
