"""No flipped byte passes: of what a marker lists, of markers, manifests and summaries, of shared caches."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from flips import Outcome, World, kind_of

SEED = 20261129
UNUSED = ("cache/teacher-answers",)
"""What a finished run does not read again."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("flips"))


def flipped(
    world: World, paths: list[Path], dice: random.Random, use: Callable[[Path], Outcome]
) -> tuple[Counter[str], list[str]]:
    """Flips a byte of each file in turn; counts of what came of its use, and what went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    for path in paths:
        place = world.flip(path, dice)
        outcome = use(path)
        counts[f"{kind_of(path, world.base)} {outcome}"] += 1
        if outcome == "wrong":
            wrong.append(f"byte {place} of {path.relative_to(world.base)}: {world.progress.lines}")
        world.restore()
    return counts, wrong


def test_a_flipped_byte_of_every_kind_of_file_is_seen(world: World) -> None:
    dice = random.Random(SEED)
    paths = [dice.choice(files) for _, files in sorted(world.targets().items())]
    _, wrong = flipped(world, paths, dice, world.use)
    assert len(paths) >= 15 and not wrong, wrong


@pytest.mark.long
def test_a_thousand_flipped_bytes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(SEED + 1)
    kinds = sorted(world.targets().items())
    paths = [dice.choice(files) for _ in range(1200 // len(kinds) + 1) for _, files in kinds]
    counts, wrong = flipped(world, paths, dice, world.use)
    with capsys.disabled():
        print(f"\n{printed(counts)}")
    assert not wrong, wrong


@pytest.mark.long
def test_some_dozens_from_the_command_line(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(SEED + 2)
    kinds = [kind for kind in sorted(world.targets().items()) if kind[0] not in UNUSED]
    paths = [dice.choice(files) for _ in range(2) for _, files in kinds]
    counts, wrong = flipped(world, paths, dice, world.command)
    with capsys.disabled():
        print(f"\n{printed(counts)}")
    assert not wrong, wrong


def printed(counts: Counter[str]) -> str:
    """Outcomes by kind of file, one a line, and all together."""
    total = Counter(dict.fromkeys(("healed", "refused", "wrong"), 0))
    for name, count in counts.items():
        total[name.rpartition(" ")[2]] += count
    lines = [f"{name}: {count}" for name, count in sorted(counts.items())]
    return "\n".join([*lines, f"tried {sum(counts.values())}: {dict(total)}"])
