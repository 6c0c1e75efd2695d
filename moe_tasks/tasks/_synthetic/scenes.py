"""Scenes: sentences with exactly one word of each of ten kinds, in varying order."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from moe_tasks.tasks._synthetic import words

KINDS: Mapping[str, tuple[str, ...]] = {
    "day": tuple(words.DAYS),
    "person": words.PERSONS,
    "job": words.JOBS,
    "colour": words.COLOURS,
    "vehicle": words.VEHICLES,
    "city": words.CITIES,
    "number": tuple(words.NUMBERS),
    "food": words.FOODS,
    "animal": words.ANIMALS,
    "feeling": words.FEELINGS,
}

_WHO = ("{person} the {job}", "the {job} {person}")
_DONE = (
    ("took a {colour} {vehicle} to {city}", "left {city} in a {colour} {vehicle}"),
    ("bought {number} {food}", "ate {number} {food}"),
    ("saw the {animal}", "met the {animal}"),
    ("was {feeling}", "felt {feeling}"),
)


@dataclass(frozen=True)
class Scene:
    """A sentence and its word of each kind."""

    text: str
    word: Mapping[str, str]

    @property
    def key(self) -> str:
        return self.text


def draw(rng: random.Random, **fixed: str) -> Scene:
    """A scene with random words, except for the kinds in ``fixed``."""
    word = {kind: fixed.get(kind) or rng.choice(known) for kind, known in KINDS.items()}
    done = [rng.choice(wordings) for wordings in _DONE]
    rng.shuffle(done)
    body = f"{rng.choice(_WHO)} {done[0]} , {done[1]} , {done[2]} and {done[3]}"
    template = f"on {{day}} {body} ." if rng.random() < 0.5 else f"{body} on {{day}} ."
    return Scene(template.format_map(word), word)
