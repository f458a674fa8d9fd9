"""What a run ends with of students below what they began as."""

from collections.abc import Sequence
from pathlib import Path

import fakes

from kdbench.reports.board import build
from kdbench.reports.verdict import verdict


def said(folder: Path, level: float, tasks: int, seeds: Sequence[int] = (1,)) -> str:
    """Of a student of this level whose init has 30, on tasks that all say the same."""
    names = [f"t{i}" for i in range(tasks)]
    fakes.make_run(folder, "sft-init", None, level=30, tasks=names)
    for seed in seeds:
        fakes.make_run(folder, "dpkd", seed, level=level, tasks=names)
    (line,) = verdict(build(folder))
    return line


def test_of_ten_tasks_one_is_below_by_chance(tmp_path: Path) -> None:
    """A difference that one task makes clear (p .007) is not where ten were looked at."""
    one, ten = said(tmp_path / "one", 28.9, 1), said(tmp_path / "ten", 28.9, 10)
    assert "clearly so of these students on t0[mini];" in one
    assert "which may be chance" in ten


def test_measured_seeds_speak_of_other_students_too(tmp_path: Path) -> None:
    assert "clearly so on t0[mini];" in said(tmp_path / "runs", 25, 1, (1, 2, 3))
