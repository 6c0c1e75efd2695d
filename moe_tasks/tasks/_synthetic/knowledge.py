"""Closed-book knowledge: an input names somebody or something, the answer is a fact about it.

Rows of a trained task differ in wording: each fact is trained, and asked in other words in the
test. Composed tasks (the country a person's town lies in) can be unseen: their few examples
show some persons, their test rows ask about others, of whom only the single facts were trained.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from moe_tasks.tasks._synthetic.facts import OF_PEOPLE, OF_THINGS, World
from moe_tasks.tasks._synthetic.spec import Spec, features
from moe_tasks.tasks.base import Split, Task

# Neutral wordings: they suit every subject and ask for nothing in particular.
_BEFORE = (
    "about", "tell me about", "now think of", "here is", "remember", "we speak of", "what of",
    "look at", "i know", "consider", "once again", "next comes",
)  # fmt: skip
_AFTER = (
    ".", "?", ", please .", "again .", "for me .", "if you can .", "today .", "then ?",
    ", friend .", "at last .", "right away .", ", will you ?",
)  # fmt: skip

_QUESTIONS = {
    "town": "in which town does the person live ?",
    "guild": "to which guild does the person belong ?",
    "country": "in which country does the {kind} lie ?",
    "river": "on which river does the {kind} lie ?",
    "tongue": "which tongue is spoken in the {kind} ?",
    "material": "with which material does the {kind} work ?",
    "feast": "in which season does the {kind} feast ?",
    "drink": "what does the {kind} drink ?",
}


@dataclass(frozen=True)
class Mention:
    """A subject in neutral words."""

    subject: str
    text: str

    @property
    def key(self) -> str:
        return self.text


def specs(world: World) -> list[Spec]:
    people = [
        _spec(f"know-person_{relation}", "people", _QUESTIONS[relation], world.table[relation])
        for relation in OF_PEOPLE
    ]
    things = [
        _spec(f"know-{kind}_{relation}", "things", _question(relation, kind), world.table[relation])
        for relation, (kind, _) in OF_THINGS.items()
    ]
    return people + things + [_composed(world, relation) for relation in OF_THINGS]


def _question(relation: str, kind: str) -> str:
    return _QUESTIONS[relation].format(kind=kind)


def _spec(name: str, group: str, question: str, table: Mapping[str, str]) -> Spec:
    task = Task(
        name=name,
        metric="EM",
        category="closed-book knowledge",
        subcategory=group,
        instruction=question,
        features=features(world_knowledge=True),
    )
    return Spec(
        task=task,
        family="mention",
        draw=_draw,
        answer=partial(_answer, table=table),
        strata=tuple(table),
    )


def _composed(world: World, relation: str) -> Spec:
    kind = OF_THINGS[relation][0]
    table = {who: world.table[relation][it] for who, it in world.table[kind].items()}
    question = _question(relation, f"{kind} of the person")
    single = _spec(f"know-person_{relation}", "composed facts", question, table)
    return Spec(
        task=single.task,
        family=single.family,
        draw=single.draw,
        answer=single.answer,
        strata=single.strata,
        parts=(f"know-person_{kind}", f"know-{kind}_{relation}"),
        held_out=_held_out(world.groups(kind)),
    )


def _held_out(groups: Sequence[Sequence[str]]) -> dict[Split, tuple[str, ...]]:
    """Half of the persons for the test, the others for the few examples.

    Every town (guild, ship) has persons on both sides: what is missing from the examples is the
    person, not the place.
    """
    train: list[str] = []
    dev: list[str] = []
    test: list[str] = []
    for i, group in enumerate(groups):
        half = len(group) // 2
        test += group[:half]
        shown = group[half:]
        train += shown if i % 2 else shown[:-1]
        dev += [] if i % 2 else shown[-1:]
    return {"train": tuple(train), "dev": tuple(dev), "test": tuple(test)}


def _draw(rng: random.Random, subject: str) -> Mention:
    return Mention(subject, f"{rng.choice(_BEFORE)} {subject} {rng.choice(_AFTER)}")


def _answer(mention: Mention, table: Mapping[str, str]) -> str | None:
    return table.get(mention.subject)
