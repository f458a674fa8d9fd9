# ruff: noqa: SIM905 - word lists read better as words than as quoted strings
"""The content words of the mini world. All proper names are invented.

Lists may be extended at the end only by giving the world a new edition: every fact is drawn from
them, so a changed list is a changed benchmark.
"""

FIRST = tuple(
    "Abel Bena Corin Dalia Edda Fenn Greta Hobin Isolt Jorun Kester Lunet Mirel Nolan Orla Pelle "
    "Quim Rasmin Sorrel Tilda".split()
)
FAMILY = tuple(
    "Arkwell Bramley Cothrin Dunnock Elmstead Farrow Gildern Hathersby Inkpen Jessop Kettlewell "
    "Lanthorn Marrick Netherby Oxenhale Pellow Quarrel Rushby Saltmarch Tolder".split()
)
TOWNS = tuple(
    "Ostrel Brennick Velmar Quillon Dunmere Harth Issel Jarven Kelbrook Lorne Mossgate Norrel "
    "Orsk Pentle Rindle Stavely Thorle Umber Wexcombe Yarl".split()
)
RIVERS = tuple("Lune Amble Tarrin Sieve Gannet Oriel Medwin Brisk Coll Ferrin".split())
REGIONS = tuple("Vale Fells Heath Coast Downs Marches".split())
NORTH = frozenset({"Fells", "Heath", "Coast"})  # the other regions are in the south
SEASONS = ("spring", "summer", "autumn", "winter")
RAIN = {"spring": 6, "summer": 2, "autumn": 8, "winter": 9}  # chances in ten of rain at a feast
FEASTS = tuple("lamp kite mask apple rope drum boat candle ribbon honey".split())
DWELLINGS = tuple(
    "mill cabin tower barn cottage lodge inn hut chapel farmhouse cellar tent".split()
)
MATERIALS = tuple(
    "clay tin oak wool glass silk bone wax copper straw stone leather reed salt".split()
)
TRADES = tuple(
    "potter smith carver weaver trader painter dyer turner mender seller cutter polisher".split()
)
COLOURS = tuple("grey brown white black red golden spotted striped pale blue russet dusky".split())
FURRED = tuple("goats hares ponies foxes otters badgers mules sheep cats hounds".split())
FEATHERED = tuple("geese ravens hens doves owls swans quails herons ducks finches".split())
ANIMALS = FURRED + FEATHERED
INGREDIENTS = tuple(
    "plum leek barley onion pear turnip walnut cherry mushroom carrot trout cabbage bean "
    "quince".split()
)
FORMS = tuple("soup pie stew bread cake jam dumplings porridge salad pudding".split())
TONES = tuple("old bent painted tiny broken borrowed heavy silver carved loud".split())
INSTRUMENTS = tuple("flute drum fiddle horn harp lute whistle bell pipe zither".split())
WARES = tuple("bowls blankets knives baskets lanterns boots ropes hats spoons mirrors".split())
FINISHES = tuple("woven polished folding sturdy crooked painted thin round scented plain".split())
FOODS = tuple("clover beetles acorns berries worms seeds moss roots snails crumbs".split())
PLACES = tuple("marshes hedges attics caves meadows ditches orchards cliffs rafters reeds".split())
TOOLS = tuple("wheel hammer chisel loom scale brush kettle lathe needle cart saw cloth".split())
SOURCES = tuple("banks hills woods pastures dunes valleys cellars hives pits fields".split())
