"""Conditional generation: word lists rearranged, and sentences put into another form."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moe_tasks.tasks._synthetic import words
from moe_tasks.tasks._synthetic.spec import Item, Spec, features
from moe_tasks.tasks.base import Task

_THINGS = (*words.BY_WEIGHT, *words.MORE_THINGS)


@dataclass(frozen=True)
class Words:
    """Four to six different words."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def key(self) -> str:
        return self.text


@dataclass(frozen=True)
class Sentence:
    """Who does what to which things, in the present."""

    who: str
    verb: str
    things: str

    @property
    def text(self) -> str:
        return f"{self.who} {self.verb}s {self.things}"

    @property
    def key(self) -> str:
        return self.text


_W = Callable[[tuple[str, ...]], tuple[str, ...]]
_S = Callable[[Sentence], str]

# name -> (function, parts it composes, wording)
_LISTS: Mapping[str, tuple[_W, tuple[str, ...], str]] = {
    "first": (lambda w: w[:1], (), "write the first word ."),
    "last": (lambda w: w[-1:], (), "write the last word ."),
    "drop_first": (lambda w: w[1:], (), "leave out the first word ."),
    "drop_last": (lambda w: w[:-1], (), "leave out the last word ."),
    "reverse": (lambda w: w[::-1], (), "write the words in reverse order ."),
    "rotate": (lambda w: (*w[1:], w[0]), (), "move the first word to the end ."),
    "rotate_back": (lambda w: (w[-1], *w[:-1]), (), "move the last word to the front ."),
    "swap_ends": (lambda w: (w[-1], *w[1:-1], w[0]), (), "swap the first and the last word ."),
    "swap_last": (lambda w: (*w[:-2], w[-1], w[-2]), (), "swap the last two words ."),
    "every_other": (lambda w: w[::2], (), "write every other word ."),
    "drop_first_reverse": (
        lambda w: w[:0:-1],
        ("drop_first", "reverse"),
        "leave out the first word and write the others in reverse order .",
    ),
    "drop_last_reverse": (
        lambda w: w[-2::-1],
        ("drop_last", "reverse"),
        "leave out the last word and write the others in reverse order .",
    ),
}
# What a few examples teach without any other task.
_EASY = ("first", "last")

_SENTENCES: Mapping[str, tuple[_S, tuple[str, ...], str]] = {
    "past": (lambda s: f"{s.who} {s.verb}ed {s.things}", (), "put it into the past ."),
    "negative": (lambda s: f"{s.who} does not {s.verb} {s.things}", (), "negate it ."),
    "question": (lambda s: f"does {s.who} {s.verb} {s.things}", (), "make it a question ."),
    "passive": (lambda s: f"{s.things} are {s.verb}ed by {s.who}", (), "put it into the passive ."),
    "past_negative": (
        lambda s: f"{s.who} did not {s.verb} {s.things}",
        ("past", "negative"),
        "put it into the past and negate it .",
    ),
    "past_question": (
        lambda s: f"did {s.who} {s.verb} {s.things}",
        ("past", "question"),
        "put it into the past and make it a question .",
    ),
    "past_passive": (
        lambda s: f"{s.things} were {s.verb}ed by {s.who}",
        ("past", "passive"),
        "put it into the past and into the passive .",
    ),
}


def specs() -> list[Spec]:
    lists = [
        _spec(name, "word order", wording, parts, _draw_words, _on_words(change))
        for name, (change, parts, wording) in _LISTS.items()
    ]
    sentences = [
        _spec(name, "sentence form", wording, parts, _draw_sentence, change)
        for name, (change, parts, wording) in _SENTENCES.items()
    ]
    return lists + sentences


def _spec(
    name: str,
    group: str,
    wording: str,
    parts: tuple[str, ...],
    draw: Callable[[random.Random, str], Item],
    answer: Callable[..., str],
) -> Spec:
    task = Task(
        name=f"transform-{name}",
        metric="EM",
        category="conditional generation",
        subcategory=group,
        instruction=wording,
        features=features(),
    )
    return Spec(
        task=task,
        family=group,
        draw=draw,
        answer=answer,
        parts=tuple(f"transform-{part}" for part in parts),
        can_be_unseen=name not in _EASY,
    )


def _on_words(change: _W) -> Callable[[Words], str]:
    return lambda item: " ".join(change(item.words))


def _draw_words(rng: random.Random, stratum: str) -> Words:
    return Words(tuple(rng.sample(_THINGS, rng.randint(4, 6))))


def _draw_sentence(rng: random.Random, stratum: str) -> Sentence:
    things = f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.OBJECTS)}"
    return Sentence(rng.choice(words.PERSONS), rng.choice(words.VERBS), things)
