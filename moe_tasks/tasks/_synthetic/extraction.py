"""Extraction: the word of one kind, or of two kinds, in a scene."""

from __future__ import annotations

import random
from functools import partial

from moe_tasks.tasks._synthetic import scenes
from moe_tasks.tasks._synthetic.scenes import Scene
from moe_tasks.tasks._synthetic.spec import Spec, features
from moe_tasks.tasks.base import Task

_GROUPS = {
    "beings and places": ("person", "job", "city", "animal"),
    "things and properties": ("colour", "vehicle", "food", "number", "day", "feeling"),
    "two kinds": ("person city", "colour vehicle", "animal feeling"),
}


def specs() -> list[Spec]:
    return [
        _spec(tuple(kinds.split()), group) for group, members in _GROUPS.items() for kinds in members
    ]


def _spec(kinds: tuple[str, ...], group: str) -> Spec:
    task = Task(
        name="extract-" + "_".join(kinds),
        metric="EM" if len(kinds) == 1 else "QA-F1",
        category="extraction",
        subcategory=group,
        instruction=f"copy the {' and then the '.join(kinds)} from the sentence .",
        features=features(extractive=True),
    )
    return Spec(
        task=task,
        family="scene",
        draw=_draw,
        answer=partial(_answer, kinds=kinds),
        parts=tuple(f"extract-{kind}" for kind in kinds) if len(kinds) > 1 else (),
    )


def _draw(rng: random.Random, stratum: str) -> Scene:
    return scenes.draw(rng)


def _answer(scene: Scene, kinds: tuple[str, ...]) -> str:
    return " ".join(scene.word[kind] for kind in kinds)
