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

    Its table has the reference rows of its suite beside it; `leaderboard` of its folder of runs shows
    other methods too.

    Args:
        run: its folder, its name in ``runs_dir``, or a part of the name that only one has.
        runs_dir: folder of run folders.

    Raises:
        InputError: none, or several.
    """
    from kdbench.harness.files.run_folder import runs_in

    found = named_run(str(run), Path(runs_dir))
    summary = found.summary.find()
    beside = [each for each in runs_in(found.path.parent) if each.summary.exists()]
    cards = [(each.path, each.summary.read().run) for each in beside]
    mine = summary.run.suite if summary else None
    return Made(found.path, tuple(p for p, c in cards if (c.kind, c.suite) == ("eval", mine)))
