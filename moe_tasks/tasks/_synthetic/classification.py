"""Classification: a property of one word of a scene, by word list."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

from moe_tasks.tasks._synthetic import scenes, words
from moe_tasks.tasks._synthetic.scenes import Scene
from moe_tasks.tasks._synthetic.spec import Spec, features
from moe_tasks.tasks.base import Task

_Lists = Mapping[str, tuple[str, ...]]

_BEINGS, _THINGS, _COUNTED = "beings and places", "things and properties", "time, number and mood"

# name -> (subcategory, kind of word judged, label -> words)
_SINGLE: Mapping[str, tuple[str, str, _Lists]] = {
    "person": (_BEINGS, "person", {"woman": words.WOMEN, "man": words.MEN}),
    "job": (_BEINGS, "job", {"indoor": words.INDOOR_JOBS, "outdoor": words.OUTDOOR_JOBS}),
    "animal_home": (
        _BEINGS,
        "animal",
        {"tame": words.BIG_TAME + words.SMALL_TAME, "wild": words.BIG_WILD + words.SMALL_WILD},
    ),
    "animal_size": (
        _BEINGS,
        "animal",
        {"big": words.BIG_TAME + words.BIG_WILD, "small": words.SMALL_TAME + words.SMALL_WILD},
    ),
    "city_half": (
        _BEINGS,
        "city",
        {
            "north": words.NORTH_COAST + words.NORTH_INLAND,
            "south": words.SOUTH_COAST + words.SOUTH_INLAND,
        },
    ),
    "city_site": (
        _BEINGS,
        "city",
        {
            "coast": words.NORTH_COAST + words.SOUTH_COAST,
            "inland": words.NORTH_INLAND + words.SOUTH_INLAND,
        },
    ),
    "colour": (_THINGS, "colour", {"warm": words.WARM_COLOURS, "cold": words.COLD_COLOURS}),
    "food": (_THINGS, "food", {"fruit": words.FRUITS, "vegetable": words.VEGETABLES}),
    "vehicle": (
        _THINGS,
        "vehicle",
        {"land": words.LAND_VEHICLES, "water": words.WATER_VEHICLES, "air": words.AIR_VEHICLES},
    ),
    "day": (_COUNTED, "day", {"weekday": words.WEEKDAYS, "weekend": words.WEEKEND}),
    "number": (
        _COUNTED,
        "number",
        {"few": tuple(words.NUMBERS[:10]), "many": tuple(words.NUMBERS[10:])},
    ),
    "feeling": (_COUNTED, "feeling", {"good": words.GOOD_FEELINGS, "bad": words.BAD_FEELINGS}),
}


def specs() -> list[Spec]:
    return [_spec(name, *entry) for name, entry in _SINGLE.items()]


def _spec(name: str, group: str, kind: str, lists: _Lists) -> Spec:
    labels = tuple(lists)
    task = Task(
        name=f"classify-{name}",
        metric="Classification-F1" if len(labels) > 2 else "ACC",
        category="classification",
        subcategory=group,
        instruction=f"is the {kind} in the sentence {' or '.join(labels)} ?",
        features=features(k=16, num_options=len(labels)),
    )
    return Spec(
        task=task,
        family="scene",
        draw=partial(_draw, kind=kind, lists=lists),
        answer=partial(_answer, kind=kind, label={w: l for l, ws in lists.items() for w in ws}),
        strata=labels,
        labels=labels,
    )


def _draw(rng: random.Random, stratum: str, kind: str, lists: _Lists) -> Scene:
    return scenes.draw(rng, **{kind: rng.choice(lists[stratum])})


def _answer(scene: Scene, kind: str, label: Mapping[str, str]) -> str:
    return label[scene.word[kind]]
