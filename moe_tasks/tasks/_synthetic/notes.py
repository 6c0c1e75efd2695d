"""Notes: one word of each of seven kinds, in any order; only the words tell their kinds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from moe_tasks.tasks._synthetic import words

KINDS: Mapping[str, tuple[str, ...]] = {
    "person": words.PERSONS,
    "job": words.JOBS,
    "city": words.CITIES,
    "animal": words.ANIMALS,
    "colour": words.COLOURS,
    "food": words.FOODS,
    "feeling": words.FEELINGS,
}

_OPENINGS = ("the note says", "we spoke of", "it was about", "they wrote down")


@dataclass(frozen=True)
class Note:
    """A sentence that lists words; ``word`` holds them by kind, in the order of the list."""

    text: str
    word: Mapping[str, str]

    @property
    def key(self) -> str:
        return self.text


def draw(rng: random.Random, **fixed: str) -> Note:
    """A note of random words, but for the kinds in ``fixed``."""
    kinds = rng.sample(list(KINDS), len(KINDS))
    word = {kind: fixed.get(kind) or rng.choice(KINDS[kind]) for kind in kinds}
    *others, last = word.values()
    return Note(f"{rng.choice(_OPENINGS)} {' , '.join(others)} and {last} .", word)
