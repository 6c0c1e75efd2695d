"""Word lists. A word belongs to one list only, so that its kind is never in doubt."""

from __future__ import annotations

# Scenes: one word of each kind occurs in every scene. Lists are grouped by label where
# a classification task judges them.
WOMEN = ("anna", "clara", "emma", "julia", "laura", "maria", "nina", "sofia")
MEN = ("adam", "boris", "david", "felix", "henry", "martin", "oscar", "peter")
PERSONS = WOMEN + MEN

INDOOR_JOBS = ("baker", "cook", "tailor", "clerk", "dentist", "barber")
OUTDOOR_JOBS = ("farmer", "sailor", "gardener", "fisher", "ranger", "builder")
JOBS = INDOOR_JOBS + OUTDOOR_JOBS

NORTH_COAST = ("oslo", "riga", "dublin", "naples")
NORTH_INLAND = ("prague", "vienna", "warsaw", "minsk")
SOUTH_COAST = ("lima", "perth", "durban", "sydney")
SOUTH_INLAND = ("nairobi", "harare", "lusaka", "pretoria")
CITIES = NORTH_COAST + NORTH_INLAND + SOUTH_COAST + SOUTH_INLAND

WARM_COLOURS = ("red", "orange", "yellow", "pink", "brown")
COLD_COLOURS = ("blue", "green", "violet", "grey", "white")
COLOURS = WARM_COLOURS + COLD_COLOURS

LAND_VEHICLES = ("bus", "train", "tram", "car")
WATER_VEHICLES = ("ferry", "canoe", "yacht", "raft")
AIR_VEHICLES = ("plane", "glider", "balloon", "rocket")
VEHICLES = LAND_VEHICLES + WATER_VEHICLES + AIR_VEHICLES

NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()

FRUITS = ("apples", "pears", "plums", "grapes", "cherries", "lemons")
VEGETABLES = ("onions", "carrots", "beans", "leeks", "beets", "turnips")
FOODS = FRUITS + VEGETABLES

BIG_TAME = ("horse", "cow", "donkey", "pig")
SMALL_TAME = ("hen", "cat", "dog", "goat")
BIG_WILD = ("elephant", "bear", "lion", "deer")
SMALL_WILD = ("snail", "frog", "fox", "hare")
ANIMALS = BIG_TAME + SMALL_TAME + BIG_WILD + SMALL_WILD

GOOD_FEELINGS = ("happy", "proud", "calm", "glad", "hopeful", "merry")
BAD_FEELINGS = ("sad", "angry", "tired", "bored", "afraid", "lonely")
FEELINGS = GOOD_FEELINGS + BAD_FEELINGS

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
WEEKEND = ("saturday", "sunday")
DAYS = WEEKDAYS + WEEKEND

# Animals in rising order; rounded from common tables, near ties settled by hand.
BY_SIZE = (
    "snail frog hen hare cat fox dog goat deer pig lion donkey bear horse cow elephant"
).split()
BY_SPEED = (
    "snail frog hen pig goat cow elephant dog cat fox donkey bear deer horse hare lion"
).split()

# Things that only options and word lists contain.
TOOLS = ("hammer", "saw", "drill", "spade", "wrench", "chisel", "rake", "axe")
INSTRUMENTS = ("flute", "violin", "drum", "harp", "trumpet", "guitar", "piano", "cello")
FURNITURE = ("chair", "table", "sofa", "shelf", "bench", "desk", "stool", "cupboard")
PLANTS = ("rose", "tulip", "fern", "ivy", "daisy", "lily", "moss", "cactus")
CLOTHES = ("coat", "shirt", "scarf", "glove", "sock", "hat", "dress", "belt")
THINGS = {
    "tool": TOOLS,
    "instrument": INSTRUMENTS,
    "piece of furniture": FURNITURE,
    "plant": PLANTS,
    "piece of clothing": CLOTHES,
}

# Sentences: regular verbs, so that the past form is also the participle.
VERBS = "clean paint lift open load mend pack sort pull count check turn".split()
OBJECTS = "doors boxes pots gates bags tents nets walls carts lamps ropes wheels".split()

# The invented world of the closed-book tasks.
PEOPLE = (
    "alda bram cato dora ebba fenna gorm hilde ivo jorn katla lomo mirko nelda odo perla "
    "quill rurik senna tove ulf vesna wanda xenia yorick zelda arlo birka corin delia egon "
    "fidel greta hugo imre jutta kasper lenka milo nadia olga pavel rosa silas tilda urban "
    "vito wilma"
).split()
TOWNS = "arbon belmar corvo delft elwick farsund gorlitz halden isola jarvis kelso lundy".split()
GUILDS = "anchor bell crown dagger ember falcon goblet harbour inkwell jewel key lantern".split()
SHIPS = (
    "aurora bounty comet dolphin endeavour fortune gannet hermes iris juno kestrel liberty"
).split()
COUNTRIES = ("norland", "sudland", "ostland", "westland")
RIVERS = ("ebro", "tiber", "volga", "rhine")
MATERIALS = ("wood", "iron", "clay", "wool")
SEASONS = ("spring", "summer", "autumn", "winter")
CARGOES = ("salt", "tea", "silk", "corn")
SEAS = ("baltic", "aegean", "caspian", "arctic")
