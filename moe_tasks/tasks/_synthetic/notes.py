"""Notes: five words of different kinds, in any order; only the words tell their kinds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
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
    "number": words.NUMBERS,
}

_LENGTH = 5  # words listed in a note
_OPENINGS = ("the note says", "we spoke of", "it was about", "they wrote down")


@dataclass(frozen=True)
class Note:
    """A sentence that lists words; ``word`` holds them by kind, in the order of the list."""

    text: str
    word: Mapping[str, str]

    @property
    def key(self) -> str:
        return self.text


def draw(rng: random.Random, needed: Iterable[str] = (), **fixed: str) -> Note:
    """A note of random words of some kinds, those ``needed`` and ``fixed`` among them.

    Args:
        fixed: the word of a kind.
    """
    kinds = list(dict.fromkeys((*needed, *fixed)))
    kinds += rng.sample([kind for kind in KINDS if kind not in kinds], _LENGTH - len(kinds))
    rng.shuffle(kinds)
    word = {kind: fixed.get(kind) or rng.choice(KINDS[kind]) for kind in kinds}
    *others, last = word.values()
    return Note(f"{rng.choice(_OPENINGS)} {' , '.join(others)} and {last} .", word)
