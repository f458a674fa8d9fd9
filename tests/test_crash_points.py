"""Killed before, in or after any file operation and continued: the same files, costs equal, nothing left."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from crash_scenes import Stage, verdict
from crashes import Crash, Nursery, Scene
from judge_server import JudgeServer

from kdbench.harness.own_methods import METHODS

SEED = 20261129


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch = tmp_path_factory.mktemp("crashes")
    with Nursery(scratch) as nursery:
        yield Stage(nursery, scratch)


def crashes(scene: Scene, dice: random.Random) -> list[Crash]:
    """Where a command dies, and in every third trial where it dies again when it is continued.

    The kind of operation is drawn first, so that rare ones are tried as often as common ones.
    """
    total = len(scene.operations)
    verb = dice.choice(sorted({operation.verb for operation in scene.operations}))
    places = [n for n, op in enumerate(scene.operations, start=1) if op.verb == verb]
    first = dice.choice(places)
    how = dice.choice(
        ["torn", "torn", "before", "after"] if verb == "write" else ["before", "after"]
    )
    found = [Crash(first, how)]
    if dice.random() < 1 / 3:
        again = dice.randint(1, max(2, total - first))
        found.append(Crash(again, dice.choice(["before", "after", "torn"])))
    return found


def tried(scene: Scene, dice: random.Random, count: int) -> list[str]:
    """Trials of a scene; prints how many by kind, and returns what went wrong."""
    scene.rehearse()
    kinds: Counter[str] = Counter()
    wrong = []
    for _ in range(count):
        points = crashes(scene, dice)
        operation = scene.operations[points[0].at - 1]
        kinds[f"{operation.verb} {points[0].how}"] += 1
        kinds["and again"] += len(points) > 1
        if problem := scene.trial(*points):
            wrong.append(f"{scene.name}: {points} {operation}: {problem}")
    said = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    line = f"| {scene.name} | {len(scene.operations)} | {count} | {len(wrong)} | {said} |"
    print(line, *wrong, sep="\n", flush=True)
    return wrong


def test_a_few_crash_points(stage: Stage) -> None:
    wrong = tried(stage.cold("seqkd"), random.Random(SEED), 2)
    assert not wrong, "\n".join(wrong)


COUNTS = {"score": 60, "judge": 60, "eval": 60, "ablate": 40, "cold sft": 20, "cold seqkd": 20}
COUNTS |= {"run dpkd": 24} | {method: 10 for method in METHODS if method != "sft"}


@pytest.mark.long
@pytest.mark.parametrize("name", COUNTS)
def test_crash_points(name: str, stage: Stage) -> None:
    dice = random.Random(f"{SEED} {name}")
    with JudgeServer(verdict) as server:
        wrong = tried(stage.scene(name, server.url), dice, COUNTS[name])
    assert not wrong, "\n".join(wrong)
