"""Rows of the mini world's splits and its plain text.

Training rows are answered by *samples of the truth*. A prompt's hash decides whether training may
see it, so no evaluation prompt is ever in train, whatever the sizes. Evaluation sets:

==========  =====================================================================================
dolly       held-out instructions of the training kinds (dev: the same, other prompts)
selfinst    compositions that training never shows: pairs of attributes never asked together
vicuna      long answers about people whose life training never tells
sni         a definition and an input, with several references
unni        paraphrased instructions
cls         classification with label words (``choices``) whose true probabilities are known
==========  =====================================================================================
"""

from functools import lru_cache
from typing import Any

from kdbench.tasks.mini.dice import Dice, bucket
from kdbench.tasks.mini.facts import VERBS, build, noun_phrase
from kdbench.tasks.mini.kinds import Kind, Slots
from kdbench.tasks.mini.parse import GROUPS, render
from kdbench.tasks.mini.stored import stored
from kdbench.tasks.mini.truth import Truth

Row = dict[str, Any]

EDITION = "mini-2"
"""The current edition of the generated world; another world needs another name."""

SIZES: dict[str, dict[str, int]] = {
    "mini-2": {"train": 12000, "dev": 400, "dolly": 600, "selfinst": 450, "vicuna": 36, "sni": 600,
               "unni": 600, "cls": 400},
    "mini-test": {"train": 320, "dev": 8, "dolly": 16, "selfinst": 8, "vicuna": 8, "sni": 8,
                  "unni": 8, "cls": 16},
}  # fmt: skip
"""Rows of each split of an edition."""
PEOPLE = {"mini-2": 40, "mini-test": 80}
"""Who lives in an edition's world: what there is to know by heart."""
# how often a group of kinds is drawn
MIXTURE = {"ask": 20, "pairs": 12, "stories": 24, "hops": 9, "classes": 5, "places": 10,
           "labels": 5, "long": 5, "life": 4, "closed": 6, "extract": 6, "summary": 6}  # fmt: skip
SPLIT_GROUPS = {
    "selfinst": ("pairs",),
    "vicuna": ("life",),
    "sni": ("pairs", "closed", "extract"),
    "cls": ("classes", "labels"),
}
HELD_OUT = 20  # percent of prompts that training never sees; one half is dev, the other the tasks
LONG_HELD_OUT = 40  # the same for the longest answers, of which there are fewer
REFERENCES = 4


def _wanted(split: str, kind: Kind, slots: Slots, prompt: str) -> bool:
    """Whether a drawn prompt belongs to a split."""
    place = bucket(prompt, 100)
    unseen = kind.unseen_slots is not None and kind.unseen_slots(slots)
    if split in ("selfinst", "sni") and kind.name in ("two", "define-two"):
        return unseen
    if unseen:
        return False
    held_out = LONG_HELD_OUT if kind in GROUPS["life"] else HELD_OUT
    if split == "train":
        return place >= held_out
    if split == "dev":
        return place < HELD_OUT // 2
    return HELD_OUT // 2 <= place < held_out or split == "unni"


def _kind(split: str, dice: Dice) -> Kind:
    names = SPLIT_GROUPS.get(split, tuple(MIXTURE))
    kinds = GROUPS[dice.weighted(names, [MIXTURE[n] for n in names])]
    if split == "selfinst":
        kinds = tuple(k for k in kinds if not k.input)
    if split == "sni":
        kinds = tuple(k for k in kinds if k.input)
    return dice.choice(kinds)


def _row(split: str, world_seed: int, i: int, tried: int, truth: Truth) -> tuple[str, Row] | None:
    dice = Dice("row", world_seed, split, i, tried)
    kind = _kind(split, dice)
    slots = kind.draw(truth.world, dice)
    pattern = dice.choice(kind.unseen if split == "unni" else kind.seen)
    instruction, given = pattern.format(**slots), kind.input.format(**slots)
    prompt = render(instruction, given)
    if not _wanted(split, kind, slots, prompt):
        return None
    row: Row = {"instruction": instruction, "input": given, "category": kind.category}
    if split == "sni":
        row["output"] = list(truth.modes(prompt) or ())[:REFERENCES]
    else:
        row["output"] = truth.sample_text(prompt, world_seed, bucket(f"{split} {i}", 1 << 62))
    if split == "cls" and kind.choices:
        row["choices"] = list(kind.choices(truth.world, slots))
    return prompt, row


@lru_cache(maxsize=4)
def truth_of(size: str, world_seed: int = 0) -> Truth:
    """The true answers of an edition's world.

    Raises:
        KeyError: unknown edition.
    """
    return Truth(build(world_seed, PEOPLE[size]))


@lru_cache(maxsize=32)
def _rows(split: str, size: str, world_seed: int) -> tuple[Row, ...]:
    name, count = f"{split}-{size}-{world_seed}", SIZES[size][split]
    return stored(name, count, lambda: _made(split, size, world_seed))


def _made(split: str, size: str, world_seed: int) -> tuple[Row, ...]:
    truth, taken = truth_of(size, world_seed), set[str]()
    out: list[Row] = []
    for i in range(SIZES[size][split]):
        for tried in range(10_000):
            made = _row(split, world_seed, i, tried, truth)
            if made and made[1]["output"] and (split == "train" or made[0] not in taken):
                taken.add(made[0])
                out.append(made[1])
                break
        else:
            raise RuntimeError(f"the mini world has too few prompts for {split} row {i}")
    return tuple(out)


def rows(split: str, *, size: str = EDITION, world_seed: int = 0) -> list[Row]:
    """The rows of a split: instruction, input, output and category.

    Args:
        split: train, dev, dolly, selfinst, vicuna, sni, unni or cls. ``output`` is a text, for sni
            a list of references (the likeliest valid answers); cls rows have ``choices`` too.
        size: the edition: ``mini-2``, or ``mini-test``.
        world_seed: which world.

    Raises:
        KeyError: unknown split or size.
    """
    return [dict(row) for row in _rows(split, size, world_seed)]


def plain_text(n: int, *, size: str = EDITION, world_seed: int = 0) -> list[str]:
    """``n`` short plain texts about an edition's world, two or three sentences, without answers."""
    world = truth_of(size, world_seed).world
    texts: list[str] = []
    for i in range(n):
        dice = Dice("text", world_seed, i)
        if dice.below(4):
            name = dice.choice(tuple(world.people))
            facts = dice.sample(tuple(VERBS), 3)
            told = [f"{name} {VERBS[a]} {noun_phrase(a, world.people[name][a])}." for a in facts]
        else:
            name = dice.choice(tuple(world.towns))
            town = world.towns[name]
            told = [
                f"{name} lies on the {town.river} in the {town.region}.",
                f"Shops in {name} sell {' '.join(town.ware)}.",
                f"The {town.feast} feast of {name} comes in {town.season}.",
            ]
            told = dice.sample(told, 2)
        texts.append(" ".join(told))
    return texts
