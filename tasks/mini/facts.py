"""The knowledge base of the mini world: who lives where, what towns make, what animals eat.

Every value of a person is two words drawn apart (``grey geese``), so that a fact cannot be guessed
from half of it, and people are keyed by first *and* family name, so that it cannot be looked up by
one word. That is what a small student cannot hold; the facts of towns, animals and trades are keyed
by one word and easy.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kdbench.tasks.mini import lexicon as lex
from kdbench.tasks.mini.dice import Dice

PEOPLE = 80
Value = tuple[str, str]


class Attribute(NamedTuple):
    """What is said of a person: the noun by which instructions ask for it, the verb of a sentence
    that tells it, what the two words of a value are called, and the words that each may be.
    """

    noun: str
    verb: str
    words: Value
    domain: tuple[tuple[str, ...], tuple[str, ...]]


TABLE = {
    "home": Attribute("home", "lives in", ("dwelling", "town"), (lex.DWELLINGS, lex.TOWNS)),
    "craft": Attribute("craft", "works as", ("material", "trade"), (lex.MATERIALS, lex.TRADES)),
    "animals": Attribute("animals", "keeps", ("colour", "animal"), (lex.COLOURS, lex.ANIMALS)),
    "dish": Attribute("dish", "cooks", ("ingredient", "form"), (lex.INGREDIENTS, lex.FORMS)),
    "music": Attribute("instrument", "plays", ("tone", "instrument"), (lex.TONES, lex.INSTRUMENTS)),
}
ATTRIBUTES = tuple(TABLE)
VERBS = {name: attribute.verb for name, attribute in TABLE.items()}
ATTRIBUTE_OF = {attribute.noun: name for name, attribute in TABLE.items()}
DOMAINS = {name: attribute.domain for name, attribute in TABLE.items()}


@dataclass(frozen=True)
class Town:
    """What is true of a town; ``ware`` is two words (``woven baskets``)."""

    river: str
    region: str
    season: str
    feast: str
    ware: Value

    @property
    def side(self) -> str:
        """``north`` or ``south``, decided by the region."""
        return "north" if self.region in lex.NORTH else "south"


@dataclass(frozen=True)
class World:
    """All facts. ``people[name][attribute]`` is a pair of words; animals have (food, place)."""

    people: dict[str, dict[str, Value]]
    towns: dict[str, Town]
    animals: dict[str, Value]
    tools: dict[str, str]
    sources: dict[str, str]
    residents: dict[str, tuple[str, ...]]


def article(word: str) -> str:
    """``a`` or ``an``."""
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(attribute: str, value: Value) -> str:
    """The value as words: ``a mill in Ostrel``, ``a clay potter``, ``grey geese``."""
    first, second = value
    if attribute == "home":
        return f"{article(first)} {first} in {second}"
    if attribute in ("craft", "music"):
        return f"{article(first)} {first} {second}"
    return f"{first} {second}"


def draw_value(dice: Dice, attribute: str) -> Value:
    """A random value of an attribute, each of its two words on its own."""
    first, second = DOMAINS[attribute]
    return dice.choice(first), dice.choice(second)


@lru_cache(maxsize=4)
def build(seed: int = 0, people: int = PEOPLE) -> World:
    """The world of a seed. Same seed, same world, on every machine."""
    dice = Dice("world", seed)
    pairs = [f"{first} {family}" for first in lex.FIRST for family in lex.FAMILY]
    names = dice.sample(pairs, people)
    facts = {n: {a: draw_value(dice, a) for a in ATTRIBUTES} for n in names}
    for i, name in enumerate(names):  # every town gets the same number of people
        facts[name]["home"] = (facts[name]["home"][0], lex.TOWNS[i % len(lex.TOWNS)])
    towns = {
        t: Town(
            dice.choice(lex.RIVERS),
            dice.choice(lex.REGIONS),
            dice.choice(lex.SEASONS),
            dice.choice(lex.FEASTS),
            (dice.choice(lex.FINISHES), dice.choice(lex.WARES)),
        )
        for t in lex.TOWNS
    }
    animals = {a: (dice.choice(lex.FOODS), dice.choice(lex.PLACES)) for a in lex.ANIMALS}
    tools = dict(zip(lex.TRADES, dice.sample(lex.TOOLS, len(lex.TRADES)), strict=True))
    sources = {m: dice.choice(lex.SOURCES) for m in lex.MATERIALS}
    residents = {t: tuple(n for n in names if facts[n]["home"][1] == t) for t in lex.TOWNS}
    return World(facts, towns, animals, tools, sources, residents)
