"""Word lists. A word belongs to one list only, so that its kind is never in doubt."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Notes: words of several kinds. Lists are grouped by label where a classification task judges
# them.
WOMEN = _words("anna clara emma julia laura maria nina sofia")
MEN = _words("adam boris david felix henry martin oscar peter")
PERSONS = WOMEN + MEN

INDOOR_JOBS = _words("baker cook tailor clerk barber dentist teacher")
OUTDOOR_JOBS = _words("farmer sailor gardener fisher builder ranger shepherd")
JOBS = INDOOR_JOBS + OUTDOOR_JOBS

NORTH_COAST = _words("oslo riga dublin naples")
NORTH_INLAND = _words("prague vienna warsaw minsk")
SOUTH_COAST = _words("lima perth durban sydney")
SOUTH_INLAND = _words("nairobi harare lusaka pretoria")
CITIES = NORTH_COAST + NORTH_INLAND + SOUTH_COAST + SOUTH_INLAND

WARM_COLOURS = _words("red orange yellow pink brown golden")
COLD_COLOURS = _words("blue green violet grey white silver")
COLOURS = WARM_COLOURS + COLD_COLOURS

FRUITS = _words("apples pears plums grapes cherries lemons melons")
ROOTS = _words("carrots beets turnips radishes parsnips yams potatoes")
FOODS = FRUITS + ROOTS

BIG_TAME = _words("horse cow donkey pig")
SMALL_TAME = _words("hen cat dog goat")
BIG_WILD = _words("bear lion deer elephant")
SMALL_WILD = _words("frog pigeon fox hare")
ANIMALS = BIG_TAME + SMALL_TAME + BIG_WILD + SMALL_WILD

GOOD_FEELINGS = _words("joy pride hope delight love trust")
BAD_FEELINGS = _words("fear anger grief shame envy doubt")
FEELINGS = GOOD_FEELINGS + BAD_FEELINGS

# Options in rising order; animals rounded from common tables, near ties settled by hand.
BY_SIZE = _words(
    "frog pigeon hen hare cat fox dog goat deer pig lion donkey bear horse cow elephant"
)
BY_SPEED = _words(
    "frog hen pig goat cow elephant dog cat fox donkey bear deer horse hare lion pigeon"
)
NUMBERS = _words(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen"
)
BY_WEIGHT = _words(
    "button ring pencil watch candle cup book camera violin hammer lamp radio brick bucket chair "
    "table"
)
BY_PRICE = _words(
    "button pencil brick candle bucket cup book hammer lamp chair radio table camera watch violin "
    "ring"
)

# Word lists contain these and the things above.
MORE_THINGS = _words(
    "saw drill spade rake flute drum harp sofa shelf bench desk rose fern ivy moss coat shirt "
    "scarf glove hat mirror carpet curtain pillow blanket kettle bottle basket ladder "
    "needle thread whistle compass map stamp letter woman man fruit root"
)

# Sentences: adjectives that are also labels, so that a label is a word known from elsewhere
# even where its task is unseen; regular verbs, so that the past form is also the participle.
ADJECTIVES = _words(
    "big small warm cold wild tame good bad indoor outdoor northern southern coastal inland "
    "few many"
)
VERBS = _words("clean paint lift open load mend pack sort pull count check turn")
OBJECTS = _words("doors boxes pots gates bags tents nets walls carts lamps ropes wheels")

# The invented world of the closed-book tasks.
PEOPLE = _words(
    "alda bram cato dora ebba fenna gorm hilde ivo jorn katla lomo mirko nelda odo perla "
    "quill rurik senna tove ulf vesna wanda xenia yorick zelda arlo birka corin delia egon "
    "fidel greta hugo imre jutta"
)
TOWNS = _words("arbon belmar corvo delft elwick farsund gorlitz halden isola")
GUILDS = _words("anchor bell crown dagger ember falcon goblet jewel key")
COUNTRIES = _words("norland sudland ostland")
RIVERS = _words("ebro tiber volga")
TONGUES = _words("latin greek gaelic")
MATERIALS = _words("wood iron clay")
SEASONS = _words("spring summer autumn")
DRINKS = _words("tea cider milk")
