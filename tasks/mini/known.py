"""Answers from the knowledge base: what the templates of ``kinds.yaml`` may say, and choices.

A template names in braces what it says of the person, town, animal … that a prompt is about:
attributes as phrases (``{craft}``: a clay potter), their words (``{material}``, ``{trade}``), and
what follows from those (``{tool}``, ``{source}``; ``{river}`` of the town asked about or lived in).
"""

from collections.abc import Sequence

from kdbench.tasks.mini import lexicon as lex
from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import (
    ATTRIBUTE_OF,
    DOMAINS,
    TABLE,
    World,
    article,
    noun_phrase,
)
from kdbench.tasks.mini.grammar import plackett_luce
from kdbench.tasks.mini.kinds import Answer, Choices, Draw, Slots

SLOT_WORDS = {"t": "town", "n": "animal", "c": "trade", "m": "material"}
# pairs of attributes that training never asks for together
UNSEEN_PAIRS = ({"home", "instrument"}, {"craft", "dish"}, {"animals", "home"})


def unseen_pair(slots: Slots) -> bool:
    """Whether the two attributes asked for never meet in training."""
    return {slots["a"], slots["b"]} in UNSEEN_PAIRS


def told(world: World, slots: Slots) -> dict[str, object]:
    """Everything that a template may say of what the slots name, by its name."""
    said: dict[str, object] = {}
    names = {word: slots[slot] for slot, word in SLOT_WORDS.items() if slot in slots}
    if "p" in slots:
        person = world.people[slots["p"]]
        for attribute, value in person.items():
            said[attribute] = noun_phrase(attribute, value)
            names |= zip(TABLE[attribute].words, value, strict=True)
        said["a_dwelling"] = f"{article(names['dwelling'])} {names['dwelling']}"
    if "a" in slots:
        said["first"], said["second"] = (said[ATTRIBUTE_OF[slots[x]]] for x in "ab")
    if "town" in names:
        town = world.towns[names["town"]]
        rain = lex.RAIN[town.season]
        said |= vars(town) | {"side": town.side, "rain": rain, "sun": 10 - rain}
        said |= {"other_side": "south" if town.side == "north" else "north"}
        said["finish"], said["ware"] = town.ware
    if "animal" in names:
        said["food"], said["place"] = world.animals[names["animal"]]
        coats = ("fur", "feathers") if names["animal"] in lex.FURRED else ("feathers", "fur")
        said["coat"], said["other_coat"] = coats
    if "trade" in names:
        said["tool"] = world.tools[names["trade"]]
    if "material" in names:
        said["source"] = world.sources[names["material"]]
    return {**slots, **names, **said}


def from_template(template: str | Sequence[str]) -> Answer:
    """The answer that a template, or a list of sentences, writes."""
    whole = template if isinstance(template, str) else " ".join(template)
    return lambda world, slots: whole.format_map(told(world, slots))


def gifts(world: World, slots: Slots) -> str:
    """Two things that a person could give."""
    person = world.people[slots["p"]]
    items = [noun_phrase(a, person[a]) for a in ("dish", "music", "animals")]
    return plackett_luce(items, [8.0, 3.0, 1.0], 2, "or") + " ."


def residents(world: World, slots: Slots) -> str:
    """Two people of a town."""
    names = list(world.residents[slots["t"]][:4])
    return plackett_luce(names, [8.0, 4.0, 2.0, 1.0][: len(names)], 2, "and") + " ."


PICKS = {"gifts": gifts, "residents": residents}
"""Answers that are ordered picks, which no template writes; by the name of the kind."""


def choice(attribute: str) -> tuple[Draw, Answer, Choices]:
    """Draw, answer and labels of a choice between the true word of an attribute and a wrong one."""

    def draw(world: World, dice: Dice) -> Slots:
        person = dice.choice(tuple(world.people))
        truth = world.people[person][attribute][1]
        wrong = dice.choice([w for w in DOMAINS[attribute][1] if w != truth])
        x, y = dice.sample([truth, wrong], 2)
        return {"p": person, "x": x, "y": y}

    def answer(world: World, slots: Slots) -> str:
        truth = world.people[slots["p"]][attribute][1]
        x, y = slots["x"], slots["y"]
        if truth not in (x, y):  # a prompt nobody drew: neither is right, both are as likely
            return f"[1 {x} | 1 {y}]"
        return f"[9 {truth} | 1 {y if truth == x else x}]"

    return draw, answer, lambda world, slots: (slots["x"], slots["y"])
