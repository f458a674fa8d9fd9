"""All kinds of instructions, and the reading of a prompt back into its kind and slots."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import render as render_template
from kdbench.harness.files.shipped import parse_yaml
from kdbench.tasks.mini import kinds_reading, known
from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import World, build
from kdbench.tasks.mini.grammar import compile_spec
from kdbench.tasks.mini.kinds import Kind, Slots, pattern_regex, plain, valid_slots
from kdbench.tasks.mini.words import spaced, split


def _kind(
    name: str,
    slots: str = "",
    answer: str | list[str] = "",
    choices: tuple[str, ...] = (),
    choose: str = "",
    passage: str = "",
    attribute: str = "",
    apart: bool = False,
    **patterns: Any,
) -> Kind:
    """A kind by its fields in ``kinds.yaml``."""
    fields = patterns | {"seen": tuple(patterns["seen"]), "unseen": tuple(patterns["unseen"])}
    if choose:
        draw, said, labels = known.choice(choose)
        return Kind(name=name, draw=draw, answer=said, choices=labels, **fields)
    if passage:
        draw, said = kinds_reading.passage(passage, attribute)
        return Kind(name=name, draw=draw, answer=said, **fields)
    return Kind(
        name=name,
        draw=plain(slots),
        answer=known.PICKS.get(name) or known.from_template(answer),
        unseen_slots=known.unseen_pair if apart else None,
        choices=(lambda world, slots: tuple(choices)) if choices else None,
        **fields,
    )


GROUPS: dict[str, tuple[Kind, ...]] = {
    group: tuple(_kind(**kind) for kind in kinds)
    for group, kinds in parse_yaml(
        Path(__file__).with_name("kinds.yaml").read_text(encoding="utf-8"), "kinds.yaml"
    ).items()
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
