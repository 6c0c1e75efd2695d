"""Word lists. A word belongs to one list only, so that its kind is never in doubt."""

from __future__ import annotations

# Notes: one word of each kind occurs in every note. Lists are grouped by label where
# a classification task judges them.
WOMEN = ("anna", "clara", "emma", "julia", "laura", "maria")
MEN = ("adam", "boris", "david", "felix", "henry", "martin")
PERSONS = WOMEN + MEN

INDOOR_JOBS = ("baker", "cook", "tailor", "clerk", "barber")
OUTDOOR_JOBS = ("farmer", "sailor", "gardener", "fisher", "builder")
JOBS = INDOOR_JOBS + OUTDOOR_JOBS

NORTH_COAST = ("oslo", "riga", "dublin")
NORTH_INLAND = ("prague", "vienna", "warsaw")
SOUTH_COAST = ("lima", "perth", "durban")
SOUTH_INLAND = ("nairobi", "harare", "lusaka")
CITIES = NORTH_COAST + NORTH_INLAND + SOUTH_COAST + SOUTH_INLAND

WARM_COLOURS = ("red", "orange", "yellow", "pink", "brown")
COLD_COLOURS = ("blue", "green", "violet", "grey", "white")
COLOURS = WARM_COLOURS + COLD_COLOURS

FRUITS = ("apples", "pears", "plums", "grapes", "cherries")
ROOTS = ("carrots", "beets", "turnips", "radishes", "parsnips")
FOODS = FRUITS + ROOTS

BIG_TAME = ("horse", "cow", "donkey")
SMALL_TAME = ("hen", "cat", "dog")
BIG_WILD = ("camel", "bear", "lion")
SMALL_WILD = ("snail", "frog", "fox")
ANIMALS = BIG_TAME + SMALL_TAME + BIG_WILD + SMALL_WILD

GOOD_FEELINGS = ("joy", "pride", "hope", "delight", "love")
BAD_FEELINGS = ("fear", "anger", "grief", "shame", "envy")
FEELINGS = GOOD_FEELINGS + BAD_FEELINGS

# Options in rising order; animals rounded from common tables, near ties settled by hand.
BY_SIZE = (
    "snail frog hen cat fox dog lion donkey bear horse camel cow"
).split()
BY_SPEED = (
    "snail frog hen cow dog cat fox donkey bear camel horse lion"
).split()
NUMBERS = (
    "two three four five six seven eight nine ten eleven twelve thirteen"
).split()
BY_WEIGHT = (
    "button ring coin pencil candle watch cup book lamp chair table piano"
).split()
BY_PRICE = (
    "button pencil candle coin cup book chair lamp table watch ring piano"
).split()

# Word lists contain these and the things above.
MORE_THINGS = (
    "spoon hammer violin radio saw drill spade rake flute drum harp sofa shelf bench desk rose fern ivy moss "
    "coat shirt scarf glove hat woman man fruit root"
).split()

# Sentences: adjectives that are also labels, so that a label is a word known from elsewhere
# even where its task is unseen; regular verbs, so that the past form is also the participle.
ADJECTIVES = (
    "big small warm cold wild tame good bad indoor outdoor northern southern coastal inland"
).split()
VERBS = "clean paint lift open load mend pack sort pull count check turn".split()
OBJECTS = "doors boxes pots gates bags tents nets walls carts lamps ropes wheels".split()

# The invented world of the closed-book tasks.
PEOPLE = (
    "alda bram cato dora ebba fenna gorm hilde ivo jorn katla lomo mirko nelda odo perla "
    "quill rurik senna tove ulf vesna wanda xenia yorick zelda arlo birka corin delia egon "
    "fidel greta hugo imre jutta"
).split()
TOWNS = "arbon belmar corvo delft elwick farsund gorlitz halden isola".split()
GUILDS = "anchor bell crown dagger ember falcon goblet jewel key".split()
COUNTRIES = ("norland", "sudland", "ostland")
RIVERS = ("ebro", "tiber", "volga")
TONGUES = ("latin", "greek", "gaelic")
MATERIALS = ("wood", "iron", "clay")
SEASONS = ("spring", "summer", "autumn")
DRINKS = ("tea", "cider", "milk")
