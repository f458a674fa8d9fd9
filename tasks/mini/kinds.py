"""What a kind of instruction is, and how a prompt is read back into one.

To add a kind: write its patterns and its answer into ``kinds.yaml``; ``parse.KINDS`` collects them,
and ``known.py`` has what an answer may say. A pattern names its slots in braces; equal prompts must
have equal answers, whatever kind wrote them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from kdbench.tasks.mini import facts
from kdbench.tasks.mini import lexicon as lex
from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import World
from kdbench.tasks.mini.words import SPLIT

Slots = dict[str, str]
Draw = Callable[[World, Dice], Slots]
Answer = Callable[[World, Slots], str]
Choices = Callable[[World, Slots], tuple[str, ...]]

# slot -> (regular expression, values it may take); passages are checked by their own reader
SLOT_PATTERN = {"p": r"\w+ \w+", "text": r".+"}
SLOT_VALUES: dict[str, tuple[str, ...]] = {
    "t": lex.TOWNS,
    "n": lex.ANIMALS,
    "c": lex.TRADES,
    "m": lex.MATERIALS,
    "s": lex.FEASTS,
    "q": lex.FIRST,
    "a": tuple(facts.ATTRIBUTE_OF),
    "b": tuple(facts.ATTRIBUTE_OF),
}


def draw_plain(world: World, dice: Dice, names: str) -> Slots:
    """Slots drawn evenly from their values, ``a`` and ``b`` always different."""
    slots: Slots = {}
    for name in names:
        values = tuple(world.people) if name == "p" else SLOT_VALUES[name]
        value = dice.choice(values)
        while value in slots.values():
            value = dice.choice(values)
        slots[name] = value
    return slots


@dataclass(frozen=True)
class Kind:
    """One kind of instruction.

    Args:
        name: unique; part of every draw.
        category: one of Dolly's eight.
        seen: patterns of the instruction that training may use.
        unseen: paraphrases kept for the ``unni`` task.
        draw: (world, dice) -> slots.
        answer: (world, slots) -> answer in the notation of ``grammar``.
        input: pattern of the input, or empty.
        unseen_slots: slots of compositions kept for the ``selfinst`` and ``sni`` tasks.
        choices: the label words if the answer is a single label: (world, slots) -> labels.
    """

    name: str
    category: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    draw: Draw
    answer: Answer
    input: str = ""
    unseen_slots: Callable[[Slots], bool] | None = None
    choices: Choices | None = None


def plain(names: str) -> Draw:
    """The draw of a kind whose slots are independent."""
    return lambda world, dice: draw_plain(world, dice, names)


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression over spaced text (``words.spaced``) for a pattern with slots."""
    parts = []
    for part in re.findall(r"\{\w+\}|" + SPLIT, pattern):
        name = part[1:-1]
        slot = part.startswith("{")
        value = SLOT_PATTERN.get(name, r"\w+")
        parts.append(f"(?P<{name}>{value})" if slot else re.escape(part))
    return re.compile(" ".join(parts))


def valid_slots(world: World, slots: Slots) -> bool:
    """Whether every slot holds one of its values, people of the world included."""
    return all(
        value in world.people if name == "p" else value in SLOT_VALUES.get(name, (value,))
        for name, value in slots.items()
    )
