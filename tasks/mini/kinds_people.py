"""Instructions about the people of the world: the knowledge a small student cannot hold."""

from kdbench.tasks.mini import lexicon as lex
from kdbench.tasks.mini.dice import Dice
from kdbench.tasks.mini.facts import ATTRIBUTE_OF, World, noun_phrase
from kdbench.tasks.mini.grammar import plackett_luce
from kdbench.tasks.mini.kinds import Answer, Choices, Draw, Kind, Slots, plain

Choose = tuple[Draw, Answer, Choices]

# pairs of attributes that training never asks for together
UNSEEN_PAIRS = frozenset(
    {
        frozenset({"home", "instrument"}),
        frozenset({"craft", "dish"}),
        frozenset({"animals", "home"}),
    }
)


def fact(world: World, slots: Slots, attribute: str) -> str:
    """The value of an attribute of the person asked about, as words."""
    return noun_phrase(attribute, world.people[slots["p"]][attribute])


def unseen_pair(slots: Slots) -> bool:
    """Whether the two attributes asked for never meet in training."""
    return frozenset({slots["a"], slots["b"]}) in UNSEEN_PAIRS


def _one(attribute: str, seen: tuple[str, ...], unseen: tuple[str, ...]) -> Kind:
    frames = {
        "home": "[7 | 2 at home | 1 there ,] {} .",
        "craft": "[7 | 3 as] {} .",
        "animals": "[7 | 3 some] {} .",
        "dish": "[7 | 3 some] {} .",
        "music": "[7 | 3 on] {} .",
    }
    return Kind(
        f"ask-{attribute}",
        "open_qa",
        seen,
        unseen,
        plain("p"),
        lambda world, slots: frames[attribute].format(fact(world, slots, attribute)),
    )


def _two(world: World, slots: Slots) -> str:
    a, b = (fact(world, slots, ATTRIBUTE_OF[slots[x]]) for x in "ab")
    return f"[5 {a} and {b} | 3 {a} , {b} | 2 {b} and {a}] ."


def _who(world: World, slots: Slots) -> str:
    person = world.people[slots["p"]]
    craft, animals = fact(world, slots, "craft"), fact(world, slots, "animals")
    return f"{craft} [6 from | 4 of] {person['home'][1]} [6 with | 4 keeping] {animals} ."


def _evening(world: World, slots: Slots) -> str:
    dish, music = fact(world, slots, "dish"), fact(world, slots, "music")
    return f"[6 {dish} , then | 2 first {dish} and | 2 {dish} and] {music} ."


def _river(world: World, slots: Slots) -> str:
    town = world.people[slots["p"]]["home"][1]
    return f"the {world.towns[town].river} , [7 at | 3 near] {town} ."


def _tool(world: World, slots: Slots) -> str:
    material, trade = world.people[slots["p"]]["craft"]
    return f"a {world.tools[trade]} [6 for | 4 and] {material} ."


def _fodder(world: World, slots: Slots) -> str:
    colour, animal = world.people[slots["p"]]["animals"]
    return f"{world.animals[animal][0]} for [7 | 3 the] {colour} {animal} ."


def _gifts(world: World, slots: Slots) -> str:
    items = [fact(world, slots, a) for a in ("dish", "music", "animals")]
    return plackett_luce(items, [8.0, 3.0, 1.0], 2, "or") + " ."


def _residents(world: World, slots: Slots) -> str:
    names = list(world.residents[slots["t"]][:4])
    return plackett_luce(names, [8.0, 4.0, 2.0, 1.0][: len(names)], 2, "and") + " ."


def _line(world: World, slots: Slots) -> str:
    person = world.people[slots["p"]]
    when = "[6 At dawn | 3 One evening | 1 In the rain]"
    a, (material, trade) = person["animals"], person["craft"]
    return (
        f"{when} the {material} {trade} [7 of | 3 from] {person['home'][1]} "
        f"[6 sang to | 2 dreamed of | 2 danced with] {a[0]} {a[1]} ."
    )


def _toast(world: World, slots: Slots) -> str:
    dish, music = world.people[slots["p"]]["dish"], world.people[slots["p"]]["music"]
    return (
        f"[6 May your | 4 Let the] {dish[0]} {dish[1]} [7 be warm | 3 never end] and "
        f"[6 your | 4 the] {music[0]} {music[1]} [7 ring loud | 3 be merry] ."
    )


def _choose(field: str, place: int, words: tuple[str, ...]) -> Choose:
    """Draw, answer and labels of a choice between the true word and a wrong one."""

    def draw(world: World, dice: Dice) -> Slots:
        person = dice.choice(tuple(world.people))
        truth = world.people[person][field][place]
        wrong = dice.choice([w for w in words if w != truth])
        x, y = dice.sample([truth, wrong], 2)
        return {"p": person, "x": x, "y": y}

    def answer(world: World, slots: Slots) -> str:
        truth = world.people[slots["p"]][field][place]
        x, y = slots["x"], slots["y"]
        if truth not in (x, y):  # a prompt nobody drew: neither is right, both are as likely
            return f"[1 {x} | 1 {y}]"
        return f"[9 {truth} | 1 {y if truth == x else x}]"

    return draw, answer, lambda world, slots: (slots["x"], slots["y"])


def _class(name: str, seen: tuple[str, ...], unseen: tuple[str, ...], choose: Choose) -> Kind:
    return Kind(name, "classification", seen, unseen, choose[0], choose[1], choices=choose[2])


ASK = (
    _one(
        "home",
        ("Where does {p} live?", "Tell me the home of {p}.", "Where is the house of {p}?"),
        ("In what place does {p} live?", "Say where the home of {p} is."),
    ),
    _one(
        "craft",
        ("What work does {p} do?", "Tell me the craft of {p}.", "How does {p} earn money?"),
        ("What craft does {p} work in?", "Say how {p} earns money."),
    ),
    _one(
        "animals",
        ("What animals does {p} keep?", "Tell me the animals of {p}.", "What is in {p}'s yard?"),
        ("Say what animals {p} keeps.", "Tell me what animals live in the yard of {p}."),
    ),
    _one(
        "dish",
        ("What does {p} cook best?", "Tell me the dish of {p}.", "What does {p} serve to guests?"),
        ("Say what dish {p} cooks.", "What dish does {p} serve?"),
    ),
    _one(
        "music",
        ("What does {p} play?", "Tell me the instrument of {p}.", "How does {p} make music?"),
        ("What instrument does {p} play?", "Say how {p} makes music."),
    ),
)
PAIRS = (
    Kind(
        "two",
        "open_qa",
        ("Name the {a} and the {b} of {p}.", "What are the {a} and {b} of {p}?"),
        ("Tell me the {a} and also the {b} of {p}.",),
        plain("pab"),
        _two,
        unseen_slots=unseen_pair,
    ),
    Kind(
        "define-two",
        "information_extraction",
        ("You are given a name. Answer with the {a} and the {b}.",),
        ("Given a name, say the {a} and {b}.",),
        plain("pab"),
        _two,
        input="{p}",
        unseen_slots=unseen_pair,
    ),
)
STORIES = (
    Kind(
        "who",
        "open_qa",
        ("Who is {p}?", "Tell me about {p}.", "Introduce {p}."),
        ("Say who {p} is.",),
        plain("p"),
        _who,
    ),
    Kind(
        "evening",
        "open_qa",
        ("What will an evening with {p} bring?", "Plan an evening at {p}'s house."),
        ("Tell me what an evening at the house of {p} will bring.",),
        plain("p"),
        _evening,
    ),
    Kind(
        "gifts",
        "brainstorming",
        ("Suggest two gifts from {p}.", "What could {p} give us?"),
        ("Name two gifts {p} could give.",),
        plain("p"),
        _gifts,
    ),
    Kind(
        "residents",
        "brainstorming",
        ("Name two people from {t}.", "Who could I visit in {t}?"),
        ("Suggest two people in {t} I could visit.",),
        plain("t"),
        _residents,
    ),
    Kind(
        "line",
        "creative_writing",
        ("Write a line about {p}.", "Begin a tale about {p}."),
        ("Write how a tale about {p} could begin.",),
        plain("p"),
        _line,
    ),
    Kind(
        "toast",
        "creative_writing",
        ("Write a toast for {p}.", "Raise a cup to {p}."),
        ("Write a cup toast to {p}.",),
        plain("p"),
        _toast,
    ),
)
HOPS = (
    Kind(
        "river",
        "open_qa",
        ("Which river flows by the home of {p}?", "What water is near {p}?"),
        ("Say which river {p} lives near.",),
        plain("p"),
        _river,
    ),
    Kind(
        "tool",
        "open_qa",
        ("What does {p} need for work?", "What tool and stuff does {p} use?"),
        ("Say what tool {p} needs for work.",),
        plain("p"),
        _tool,
    ),
    Kind(
        "fodder",
        "open_qa",
        ("What should I feed the animals of {p}?", "What food does {p} buy for animals?"),
        ("Say what food the animals of {p} need.",),
        plain("p"),
        _fodder,
    ),
)
CLASSES = (
    _class(
        "which-trade",
        ("Is {p} a {x} or a {y}?", "Sort {p}: {x} or {y}?"),
        ("Say if {p} is a {x} or a {y}.",),
        _choose("craft", 1, lex.TRADES),
    ),
    _class(
        "which-animal",
        ("Does {p} keep {x} or {y}?",),
        ("Say if {p} keeps {x} or {y}.",),
        _choose("animals", 1, lex.ANIMALS),
    ),
    _class(
        "which-town",
        ("Does {p} live in {x} or {y}?",),
        ("Say if the home of {p} is in {x} or {y}.",),
        _choose("home", 1, lex.TOWNS),
    ),
)
