"""Nothing of a training lies on the CPU where the models do not: a device that computes as a CPU does,
but refuses, as a GPU does, what would mix the two (`elsewhere`).
"""

import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import zoo

HERE = Path(__file__).parent / "support"
SOME = ["gkd", "mrkd+lora"]
"""Sampling; copies of the student, and adapters."""


def compared(
    names: list[str], steps: int, out: Path, patched: pytest.MonkeyPatch
) -> dict[str, float]:
    """The largest difference between weights trained there, on a device that refuses, and here."""
    code = f"import sys; sys.path[:0] = [{str(HERE)!r}]; import pathlib, elsewhere; "
    code += "elsewhere.refuses(); "
    code += "elsewhere.trained(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out / "there"), str(steps), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    patched.setattr(ranks, "STEPS", steps)
    for name in names:
        (out / "here" / name).mkdir(parents=True)
        ranks.build(name, out / "here" / name, {}, "llama", True).run()
    return {n: ranks.gap(*(ranks.student(out / at, n) for at in ("there", "here"))) for n in names}


def test_trainings_off_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = compared(SOME, 2, tmp_path, monkeypatch)
    assert max(gaps.values()) <= 1e-9, gaps


@pytest.mark.long
def test_every_training_off_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = compared([*zoo.NAMES, "fkd+lora", "mrkd+lora", "minillm+lora"], 6, tmp_path, monkeypatch)
    print({name: f"{value:.1e}" for name, value in gaps.items()})
    assert max(gaps.values()) <= 1e-9, gaps
