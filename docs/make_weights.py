"""Puts models of the cache into the package: the default suite's teacher, students before training, inits.

    KDBENCH_CACHE=EMPTY kdbench run --method sft --seed 10 …   # one run a seed makes them
    python docs/make_weights.py EMPTY

Only what the default suite shares is taken: ``teachers`` of the world ``mini-2``, ``inits`` of
``mini-2:student``, and all of ``base``. Runs that were made with other weights are of another teacher: make
the board again.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from kdbench.harness.files.cleaning import HOLDS
from kdbench.harness.files.folders import BUILT
from kdbench.harness.files.run_folder import Training
from kdbench.harness.files.stages import Stage
from kdbench.harness.runner.published import published

SHARED = (
    "teacher of the generated world mini-2",
    "init: mini-2:student after SFT on mini-2, seed ",
)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    cache = parser.parse_args().cache
    for folder in sorted((cache / "base").iterdir()):
        _copy(folder, Stage(folder, BUILT).marker().outputs)
    for folder in sorted([*(cache / "teachers").iterdir(), *(cache / "inits").iterdir()]):
        training = Training(folder)
        holds = (folder / HOLDS).read_text(encoding="utf-8")
        if holds.startswith(SHARED) and training.settled():
            _copy(folder, [*training.stage.marker().outputs, training.stage.file.name])
    return 0


def _copy(folder: Path, names: Iterable[str]) -> None:
    target = published(folder)
    shutil.rmtree(target, ignore_errors=True)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    print(target)


if __name__ == "__main__":
    sys.exit(main())
