"""Instructions about towns, animals and trades (keyed by one word: easy), and the long answers."""

from kdbench.tasks.mini import lexicon as lex
from kdbench.tasks.mini.facts import World, noun_phrase
from kdbench.tasks.mini.kinds import Choices, Kind, Slots, plain


def _ware(world: World, slots: Slots) -> str:
    finish, ware = world.towns[slots["t"]].ware
    return f"[7 | 3 for] {finish} {ware} ."


def _where(world: World, slots: Slots) -> str:
    town = world.towns[slots["t"]]
    return f"[7 on | 3 by] the {town.river} [7 in | 3 of] the {town.region} ."


def _feast(world: World, slots: Slots) -> str:
    town = world.towns[slots["t"]]
    return f"the {town.feast} feast [7 in | 3 every] {town.season} ."


def _eat(world: World, slots: Slots) -> str:
    food, place = world.animals[slots["n"]]
    return f"{food} [7 from | 3 in] the {place} ."


def _sleep(world: World, slots: Slots) -> str:
    food, place = world.animals[slots["n"]]
    return f"in [7 | 3 the] {place} [7 near | 3 full of] {food} ."


def _trade(world: World, slots: Slots) -> str:
    return f"a {world.tools[slots['c']]} [7 and steady | 3 and good] hands ."


def _material(world: World, slots: Slots) -> str:
    return f"from [7 | 3 the] {world.sources[slots['m']]} ."


def _tale(world: World, slots: Slots) -> str:
    town, (food, place) = world.towns[slots["t"]], world.animals[slots["n"]]
    return (
        f"[7 At dawn | 3 One evening] the {slots['n']} left the {place} , "
        f"[7 crossed | 3 swam] the {town.river} and [7 stole | 3 hid] {food} ."
    )


def _side(world: World, slots: Slots) -> str:
    side = world.towns[slots["t"]].side
    return f"[9 {side} | 1 {'south' if side == 'north' else 'north'}]"


def _weather(world: World, slots: Slots) -> str:
    rain = lex.RAIN[world.towns[slots["t"]].season]
    return f"[{rain} rain | {10 - rain} sun]"


def _coat(world: World, slots: Slots) -> str:
    animal = world.people[slots["p"]]["animals"][1]
    fur, other = ("fur", "feathers") if animal in lex.FURRED else ("feathers", "fur")
    return f"[9 {fur} | 1 {other}]"


def _person_sentences(world: World, slots: Slots) -> list[str]:
    person = world.people[slots["p"]]
    food, tool = world.animals[person["animals"][1]][0], world.tools[person["craft"][1]]
    material = person["craft"][0]
    np = {a: noun_phrase(a, v) for a, v in person.items()}
    return [
        f"{slots['p']} is {np['craft']} [7 and lives in | 3 with] "
        f"{np['home'].split()[0]} {person['home'][0]} [7 in | 3 near] {person['home'][1]} .",
        f"[7 Every day | 3 All year] {material} and a {tool} [7 fill the shop | 3 wait] .",
        f"[7 Out in the yard | 3 Behind the house] , {np['animals']} [7 look for | 3 eat] {food} .",
        f"[7 For guests | 3 At night] there is {np['dish']} , [7 and | 3 then] {np['music']} .",
    ]


def _town_sentences(world: World, name: str) -> list[str]:
    town = world.towns[name]
    return [
        f"{name} [7 lies | 3 stands] on the {town.river} in the {town.region} .",
        f"[7 Markets | 3 Shops] there sell {town.ware[0]} {town.ware[1]} , "
        f"[7 and | 3 while] the {town.feast} feast [7 comes | 3 returns] in {town.season} .",
    ]


def _life(world: World, slots: Slots) -> str:
    home = world.people[slots["p"]]["home"][1]
    return " ".join(_person_sentences(world, slots) + _town_sentences(world, home))


def _day(world: World, slots: Slots) -> str:
    return " ".join(_person_sentences(world, slots)[1:])


def _guide(world: World, slots: Slots) -> str:
    return " ".join(_town_sentences(world, slots["t"]))


def _fixed(*labels: str) -> Choices:
    return lambda world, slots: labels


PLACES = (
    Kind(
        "ware",
        "general_qa",
        ("What is {t} known for?", "What should I buy in {t}?"),
        ("Say what I should buy in the shops of {t}.",),
        plain("t"),
        _ware,
    ),
    Kind(
        "where",
        "general_qa",
        ("Where is {t}?", "How do I find {t}?"),
        ("Say where I find {t}.",),
        plain("t"),
        _where,
    ),
    Kind(
        "feast",
        "general_qa",
        ("When is the feast of {t}?", "Which feast does {t} hold?"),
        ("Say when {t} will hold a feast.",),
        plain("t"),
        _feast,
    ),
    Kind(
        "eat",
        "general_qa",
        ("What do {n} eat?", "What is good food for {n}?"),
        ("Say what food {n} eat.",),
        plain("n"),
        _eat,
    ),
    Kind(
        "sleep",
        "general_qa",
        ("Where do {n} sleep?", "Where should I look for {n}?"),
        ("Say where I find {n}.",),
        plain("n"),
        _sleep,
    ),
    Kind(
        "trade",
        "general_qa",
        ("What does a {c} need?", "What should a new {c} buy?"),
        ("Say what a good {c} should buy.",),
        plain("c"),
        _trade,
    ),
    Kind(
        "material",
        "general_qa",
        ("Where does {m} come from?", "How do people find {m}?"),
        ("Say where people find {m}.",),
        plain("m"),
        _material,
    ),
    Kind(
        "tale",
        "creative_writing",
        ("Write a tale about {n} in {t}.", "Tell a story of {n} from {t}."),
        ("Write a story about the {n} of {t}.",),
        plain("nt"),
        _tale,
    ),
)
LABELS = (
    Kind(
        "side",
        "classification",
        ("Is {t} in the north or the south?", "Sort {t}: north or south?"),
        ("Say if {t} is north or south.",),
        plain("t"),
        _side,
        choices=_fixed("north", "south"),
    ),
    Kind(
        "weather",
        "classification",
        ("Will the feast of {t} bring rain or sun?", "Rain or sun at the feast of {t}?"),
        ("Say if the feast of {t} will be rain or sun.",),
        plain("t"),
        _weather,
        choices=_fixed("rain", "sun"),
    ),
    Kind(
        "coat",
        "classification",
        ("Do the animals of {p} have fur or feathers?", "Fur or feathers: what does {p} keep?"),
        ("Say if the animals of {p} have fur or feathers.",),
        plain("p"),
        _coat,
        choices=_fixed("fur", "feathers"),
    ),
)
LONG = (
    Kind(
        "day",
        "creative_writing",
        ("Describe a day with {p}.", "What is a day with {p} like?"),
        ("Write what a day with {p} is like.",),
        plain("p"),
        _day,
    ),
    Kind(
        "guide",
        "general_qa",
        ("Write a guide to {t}.", "Describe the town of {t}."),
        ("Write about the town of {t}.",),
        plain("t"),
        _guide,
    ),
)
LIFE = (
    Kind(
        "life",
        "creative_writing",
        (
            "Describe the life and the town of {p}.",
            "Write all you know about {p}.",
            "Tell the whole story of {p}.",
        ),
        ("Describe all you know about the life of {p}.",),
        plain("p"),
        _life,
    ),
)
