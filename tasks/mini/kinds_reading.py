"""Instructions about a text in the input: the answer is in the passage, not in the knowledge base.

Passages give people random facts that hold in the passage only.
"""

import re

from kdbench.tasks.mini import lexicon as lex
from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import (
    ATTRIBUTES,
    DOMAINS,
    VERBS,
    Value,
    World,
    draw_value,
    noun_phrase,
)
from kdbench.tasks.mini.kinds import Answer, Draw, Slots

Statement = tuple[str, str, Value]  # first name, attribute, value


def write_passage(statements: list[Statement]) -> str:
    """The passage that states them, one sentence each."""
    return " ".join(f"{n} {VERBS[a]} {noun_phrase(a, v)}." for n, a, v in statements)


def read_passage(text: str) -> list[Statement]:
    """What a passage states. Sentences that state nothing known are left out."""
    statements: list[Statement] = []
    for sentence in text.split("."):
        for attribute, verb in VERBS.items():
            found = re.fullmatch(rf"\s*(\w+) {verb} (?:an? )?(\w+) (?:in )?(\w+)\s*", sentence)
            if found:
                name, first, second = found.groups()
                if first in DOMAINS[attribute][0] and second in DOMAINS[attribute][1]:
                    statements.append((name, attribute, (first, second)))
    return statements


def _draw_passage(dice: Dice, names: list[str], attributes: list[str]) -> str:
    """A passage in which no word of a value comes twice, so that no six words repeat."""
    used: set[str] = set()
    statements: list[Statement] = []
    for name, attribute in zip(names, attributes, strict=True):
        value = draw_value(dice, attribute)
        while used & set(value):
            value = draw_value(dice, attribute)
        used.update(value)
        statements.append((name, attribute, value))
    return write_passage(statements)


def _draw_asked(attribute: str) -> Draw:
    def draw(world: World, dice: Dice) -> Slots:
        names = dice.sample(lex.FIRST, 3)
        return {"text": _draw_passage(dice, names, [attribute] * 3), "q": dice.choice(names)}

    return draw


def _answer_asked(attribute: str) -> Answer:
    def answer(world: World, slots: Slots) -> str:
        for name, stated, value in read_passage(slots["text"]):
            if (name, stated) == (slots["q"], attribute):
                return f"[7 | 3 I read :] {noun_phrase(attribute, value)} ."
        return "none ."

    return answer


def _draw_list(attribute: str) -> Draw:
    def draw(world: World, dice: Dice) -> Slots:
        names = dice.sample(lex.FIRST, 3)
        other = dice.choice([a for a in ATTRIBUTES if a != attribute])
        attributes = dice.sample([attribute, attribute, other], 3)
        return {"text": _draw_passage(dice, names, attributes)}

    return draw


def _answer_list(attribute: str) -> Answer:
    def answer(world: World, slots: Slots) -> str:
        found = [v for _, a, v in read_passage(slots["text"]) if a == attribute]
        said = [noun_phrase(attribute, v) for v in found]
        return " [7 and | 3 ,] ".join(said) + " ." if said else "none ."

    return answer


def _names(world: World, slots: Slots) -> str:
    names = [n for n, _, _ in read_passage(slots["text"])]
    return " , ".join(names[:-1]) + f" [7 and | 3 ,] {names[-1]} ." if names else "none ."


def _draw_sketch(world: World, dice: Dice) -> Slots:
    name = dice.choice(lex.FIRST)
    attributes = dice.sample(("craft", "home", "animals", dice.choice(("dish", "music"))), 4)
    return {"text": _draw_passage(dice, [name] * 4, attributes)}


def _sum_up(world: World, slots: Slots) -> str:
    found = {a: (n, v) for n, a, v in read_passage(slots["text"])}
    if not {"craft", "home", "animals"} <= found.keys():
        return "none ."
    name, craft = found["craft"]
    return (
        f"{name} , [7 | 3 a] {' '.join(craft)} [7 of | 3 from] {found['home'][1][1]} "
        f"[7 with | 3 keeping] {' '.join(found['animals'][1])} ."
    )


def passage(asked: str, attribute: str) -> tuple[Draw, Answer]:
    """Draw and answer of a kind: what is asked of a text, and which attribute it tells."""
    ways: dict[str, tuple[Draw, Answer]] = {
        "asked": (_draw_asked(attribute), _answer_asked(attribute)),
        "listed": (_draw_list(attribute), _answer_list(attribute)),
        "people": (_draw_list(attribute), _names),
        "sketch": (_draw_sketch, _sum_up),
    }
    return ways[asked]
