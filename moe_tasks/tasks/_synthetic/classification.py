"""Classification of notes: a property of the word of one kind, by word list."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

from moe_tasks.tasks._synthetic import notes, words
from moe_tasks.tasks._synthetic.notes import Note
from moe_tasks.tasks._synthetic.spec import Spec, features
from moe_tasks.tasks.base import Task

_Lists = Mapping[str, tuple[str, ...]]  # label -> words

_SIZE = {
    "big": words.BIG_TAME + words.BIG_WILD,
    "small": words.SMALL_TAME + words.SMALL_WILD,
}
_HOME = {
    "tame": words.BIG_TAME + words.SMALL_TAME,
    "wild": words.BIG_WILD + words.SMALL_WILD,
}
_HALF = {
    "northern": words.NORTH_COAST + words.NORTH_INLAND,
    "southern": words.SOUTH_COAST + words.SOUTH_INLAND,
}
_SITE = {
    "coastal": words.NORTH_COAST + words.SOUTH_COAST,
    "inland": words.NORTH_INLAND + words.SOUTH_INLAND,
}

# name -> (kind of word judged, its lists)
_SINGLE: Mapping[str, tuple[str, _Lists]] = {
    "person": ("person", {"woman": words.WOMEN, "man": words.MEN}),
    "job": ("job", {"indoor": words.INDOOR_JOBS, "outdoor": words.OUTDOOR_JOBS}),
    "animal_size": ("animal", _SIZE),
    "animal_home": ("animal", _HOME),
    "city_half": ("city", _HALF),
    "city_site": ("city", _SITE),
    "colour": ("colour", {"warm": words.WARM_COLOURS, "cold": words.COLD_COLOURS}),
    "food": ("food", {"fruit": words.FRUITS, "root": words.ROOTS}),
    "number": ("number", {"few": words.NUMBERS[:8], "many": words.NUMBERS[8:]}),
    "feeling": ("feeling", {"good": words.GOOD_FEELINGS, "bad": words.BAD_FEELINGS}),
}
_DOUBLE = {"animal": ("animal_size", "animal_home"), "city": ("city_half", "city_site")}


def specs() -> list[Spec]:
    single = [_spec(name, *entry) for name, entry in _SINGLE.items()]
    return single + [_double(kind, parts) for kind, parts in _DOUBLE.items()]


def _double(kind: str, parts: tuple[str, str]) -> Spec:
    one, other = (_SINGLE[part][1] for part in parts)
    lists = {
        f"{label} {second}": tuple(word for word in one[label] if word in other[second])
        for label in one
        for second in other
    }
    return _spec(f"{parts[0]}_{parts[1].removeprefix(kind + '_')}", kind, lists, parts)


def _spec(name: str, kind: str, lists: _Lists, parts: tuple[str, ...] = ()) -> Spec:
    labels = tuple(lists)
    task = Task(
        name=f"classify-{name}",
        metric="Classification-F1" if parts else "ACC",
        category="classification",
        subcategory="two properties" if parts else "one property",
        instruction=f"is the {kind} {' or '.join(labels)} ?",
        features=features(k=16, num_options=len(labels)),
    )
    label = {word: name for name, members in lists.items() for word in members}
    return Spec(
        task=task,
        family="note",
        draw=partial(_draw, kind=kind, lists=lists),
        answer=partial(_answer, kind=kind, label=label),
        strata=labels,
        labels=labels,
        parts=tuple(f"classify-{part}" for part in parts),
    )


def _draw(rng: random.Random, stratum: str, kind: str, lists: _Lists) -> Note:
    return notes.draw(rng, **{kind: rng.choice(lists[stratum])})


def _answer(note: Note, kind: str, label: Mapping[str, str]) -> str | None:
    return label[note.word[kind]] if kind in note.word else None
