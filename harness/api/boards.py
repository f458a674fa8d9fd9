"""``kdbench.leaderboard`` and ``kdbench.load_run``: what finished runs say."""

from collections.abc import Sequence
from pathlib import Path

from kdbench.harness.api.calls import RUNS, names
from kdbench.harness.api.named import named_run
from kdbench.harness.api.results import Board, Made


def leaderboard(
    runs: Path | str | Sequence[Path | str] = RUNS,
    *,
    tasks: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
) -> Board:
    """Finished runs compared, as ``kdbench leaderboard``.

    Args:
        runs: run folders, or folders of runs.
        tasks: names; None: all.
        metrics: names (``rouge_l``); None: all.

    Raises:
        InputError: no finished run there.
    """
    from kdbench.reports.runs import finished_runs

    places = [runs] if isinstance(runs, str | Path) else list(runs)
    finished_runs(places)  # says at once that there is none
    asked, shown = names(tasks), names(metrics)
    return Board(
        tuple(map(Path, places)), (asked and tuple(asked)) or None, (shown and tuple(shown)) or None
    )


def load_run(run: Path | str, *, runs_dir: Path | str = RUNS) -> Made:
    """A run that was made before: its table, student, samples and report.

    Its table has the models that it is compared with beside it; `leaderboard` of its folder of runs shows
    other methods too.

    Args:
        run: its folder, its name in ``runs_dir``, or a part of the name that only one has.
        runs_dir: folder of run folders, or a bundle.

    Raises:
        InputError: none, several, or a bundle that cannot be read.
    """
    from pydantic import ValidationError

    from kdbench.harness.config import RunConfig
    from kdbench.harness.references import references_of

    found = named_run(str(run), Path(runs_dir))
    stored = found.config.find()
    try:
        config = RunConfig.model_validate(stored.tree()) if stored else None
    except ValidationError:  # of another kdbench, which compared it by rules of its own
        config = None
    beside = references_of(found, config).values() if config else ()
    return Made(found.path, tuple(each.path for each in beside if each.summary.exists()))
