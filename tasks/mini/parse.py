"""All kinds of instructions, and the reading of a prompt back into its kind and slots."""

import re
from functools import lru_cache
from typing import NamedTuple

from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import render as render_template
from kdbench.tasks.mini import kinds_people, kinds_places, kinds_reading
from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import World, build
from kdbench.tasks.mini.grammar import compile_spec
from kdbench.tasks.mini.kinds import Kind, Slots, pattern_regex, valid_slots
from kdbench.tasks.mini.words import spaced, split

GROUPS: dict[str, tuple[Kind, ...]] = {
    "ask": kinds_people.ASK,
    "pairs": kinds_people.PAIRS,
    "stories": kinds_people.STORIES,
    "hops": kinds_people.HOPS,
    "classes": kinds_people.CLASSES,
    "places": kinds_places.PLACES,
    "labels": kinds_places.LABELS,
    "long": kinds_places.LONG,
    "life": kinds_places.LIFE,
    "closed": kinds_reading.CLOSED,
    "extract": kinds_reading.EXTRACT,
    "summary": kinds_reading.SUMMARY,
}
KINDS: tuple[Kind, ...] = tuple(kind for group in GROUPS.values() for kind in group)
_HEAD, _GIVEN, _TAIL = "Instruction : ", " Input : ", " Response :"


class Parsed(NamedTuple):
    """A prompt understood."""

    kind: Kind
    slots: Slots


def render(instruction: str, input: str = "") -> str:
    """The prompt text of the world: the ``mini`` template of ``kdbench.harness.data``."""
    return render_template(Example(0, instruction, input, ("",)), "mini")


@lru_cache(maxsize=1)
def _regexes() -> dict[str, list[tuple[Kind, re.Pattern[str]]]]:
    """Kinds and the expressions of their patterns, by the pattern's first word."""
    found: dict[str, list[tuple[Kind, re.Pattern[str]]]] = {}
    for kind in KINDS:
        for pattern in kind.seen + kind.unseen:
            regex = pattern_regex(pattern + (f"{_GIVEN}{kind.input}" if kind.input else ""))
            found.setdefault(split(pattern)[0], []).append((kind, regex))
    return found


def readings(prompt: str, world: World) -> list[Parsed]:
    """Every way to read a rendered prompt; one for each prompt of the world."""
    text = spaced(prompt)
    if not (text.startswith(_HEAD) and text.endswith(_TAIL)):
        return []
    text = text[len(_HEAD) : -len(_TAIL)]
    found = []
    for kind, regex in _regexes().get(text.partition(" ")[0], ()):
        match = regex.fullmatch(text)
        if match and valid_slots(world, match.groupdict()):
            found.append(Parsed(kind, match.groupdict()))
    return found


def parse(prompt: str, world: World) -> Parsed:
    """The kind and slots of a rendered prompt.

    Raises:
        ValueError: the prompt is not one of the mini world.
    """
    found = readings(prompt, world)
    if not found:
        raise ValueError(f"not a prompt of the mini world: {prompt!r}")
    return found[0]


def written_words() -> set[str]:
    """Words that the patterns and answers use besides those of the lexicon.

    The fixed words of an answer are in each of its draws but for the articles and the few that
    depend on a value, so some draws of each kind show them all.
    """
    words = set(split(f"{_HEAD}{_GIVEN}{_TAIL} none a an The"))
    world = build()
    for kind in KINDS:
        for pattern in (*kind.seen, *kind.unseen):
            words.update(split(pattern.replace("{", "<").replace("}", ">")))
        for i in range(8):
            slots = kind.draw(world, Dice("words", kind.name, i))
            words.update(compile_spec(kind.answer(world, slots)).word)
            for value in slots.values():
                words.update(split(value))
    return {word for word in words if word and not word.startswith("<")}
