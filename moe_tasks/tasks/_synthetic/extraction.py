"""Extraction from notes: the word of a kind, the words of two kinds, or a word by its place."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from moe_tasks.tasks._synthetic import notes
from moe_tasks.tasks._synthetic.notes import KINDS, Note
from moe_tasks.tasks._synthetic.spec import Spec, features
from moe_tasks.tasks.base import Task

_PAIRS = (("person", "city"), ("job", "colour"), ("city", "job"), ("colour", "person"))
_PLACES = {"first": 0, "last": -1}


def specs() -> list[Spec]:
    words = [
        _spec(kind, "one kind", f"copy the {kind} .", partial(_of_kinds, kinds=(kind,)), (kind,))
        for kind in KINDS
    ]
    places = [
        _spec(f"{name}_word", "one place", f"copy the {name} word .", partial(_at, place=place))
        for name, place in _PLACES.items()
    ]
    return words + places + [_pair(kinds) for kinds in _PAIRS]


def _pair(kinds: tuple[str, ...]) -> Spec:
    return _spec(
        "_".join(kinds),
        "two kinds",
        f"copy the {' and then the '.join(kinds)} .",
        partial(_of_kinds, kinds=kinds),
        kinds,
    )


def _spec(
    name: str,
    group: str,
    instruction: str,
    answer: Callable[[Note], str | None],
    kinds: tuple[str, ...] = (),
) -> Spec:
    pair = len(kinds) > 1
    task = Task(
        name=f"extract-{name}",
        metric="QA-F1" if pair else "EM",
        category="extraction",
        subcategory=group,
        instruction=instruction,
        features=features(extractive=True),
    )
    return Spec(
        task=task,
        family="note",
        draw=partial(_draw, kinds=kinds),
        answer=answer,
        parts=tuple(f"extract-{kind}" for kind in kinds) if pair else (),
        can_be_unseen=group != "one place",
    )


def _draw(rng: random.Random, stratum: str, kinds: tuple[str, ...]) -> Note:
    return notes.draw(rng, kinds)


def _of_kinds(note: Note, kinds: tuple[str, ...]) -> str | None:
    found = [note.word[kind] for kind in kinds if kind in note.word]
    return " ".join(found) if len(found) == len(kinds) else None


def _at(note: Note, place: int) -> str:
    return list(note.word.values())[place]
