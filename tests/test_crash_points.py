"""Killed before, in or after any file operation and continued: the same files, costs equal, nothing left."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from crash_scenes import Stage, verdict
from crashes import Crash, Nursery, Scene
from judge_server import JudgeServer

from kdbench.harness.registry import METHODS

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


def tried(scene: Scene, dice: random.Random, count: int) -> tuple[Counter[str], list[str]]:
    """Trials of a scene: how many by kind, and what went wrong."""
    scene.rehearse()
    kinds: Counter[str] = Counter()
    wrong = []
    for _ in range(count):
        points = crashes(scene, dice)
        kinds[f"{scene.operations[points[0].at - 1].verb} {points[0].how}"] += 1
        kinds["twice"] += len(points) > 1
        if problem := scene.trial(*points):
            operation = scene.operations[points[0].at - 1]
            wrong.append(f"{scene.name}: {points} {operation}: {problem}")
    return kinds, wrong


def test_a_few_crash_points(stage: Stage) -> None:
    dice = random.Random(SEED)
    _, wrong = tried(stage.cold("seqkd"), dice, 2)
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
def test_crash_points_of_every_command(stage: Stage) -> None:
    dice = random.Random(SEED)
    lines, wrong = [], []
    kinds: Counter[str] = Counter()
    with JudgeServer(verdict) as server:
        plan = [(stage.score(), 40), (stage.judge(server.url), 40), (stage.eval(), 40)]
        plan += [(stage.ablate(), 30), (stage.cold("sft"), 24), (stage.cold("seqkd"), 24)]
        plan += [(stage.warm(method), 13) for method in METHODS if method != "sft"]
        for scene, count in plan:
            found, bad = tried(scene, dice, count)
            kinds += found
            wrong += bad
            line = f"| {scene.name} | {len(scene.operations)} | {count} | {count - len(bad)} | {len(bad)} |"
            print(line, flush=True)
            for each in bad:
                print("   ", each[:1500], flush=True)
            lines.append(line)
    print(*(f"| {kind} | {count} |" for kind, count in sorted(kinds.items())), sep="\n")
    assert not wrong, "\n".join(wrong)
