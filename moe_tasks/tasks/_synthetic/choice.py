"""Multiple choice: one of four listed options, by rank; the answer is its text."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from moe_tasks.tasks._synthetic import words
from moe_tasks.tasks._synthetic.spec import Spec, features
from moe_tasks.tasks.base import Task


@dataclass(frozen=True)
class Choice:
    """Four options."""

    options: tuple[str, ...]

    @property
    def text(self) -> str:
        marks = zip("ABCD", self.options, strict=True)
        return " ".join(f"({mark}) {option}" for mark, option in marks)

    @property
    def key(self) -> str:
        return self.text


# order -> (words in rising order, what is listed, wordings of the highest and the lowest)
_ORDERS: Mapping[str, tuple[Sequence[str], str, tuple[str, str]]] = {
    "size": (words.BY_SIZE, "animal", ("largest", "smallest")),
    "speed": (words.BY_SPEED, "animal", ("fastest", "slowest")),
    "value": (words.NUMBERS, "number", ("highest", "lowest")),
    "weight": (words.BY_WEIGHT, "thing", ("heaviest", "lightest")),
    "price": (words.BY_PRICE, "thing", ("dearest", "cheapest")),
}
_SECOND = ("size", "value")


def specs() -> list[Spec]:
    return [spec for order in _ORDERS for spec in _of_order(order)]


def _of_order(name: str) -> list[Spec]:
    order, listed, (highest, lowest) = _ORDERS[name]
    ranks = {highest: 3, lowest: 0}
    if name in _SECOND:
        ranks[f"second_{highest}"] = 2
    return [_spec(f"{wanted}_{listed}", listed, order, rank) for wanted, rank in ranks.items()]


def _spec(name: str, listed: str, order: Sequence[str], rank: int) -> Spec:
    task = Task(
        name=f"choose-{name}",
        metric="ACC",
        category="multiple choice",
        subcategory=f"rank of {listed}s",
        instruction=f"choose the {name.replace('_', ' ')} .",
        features=features(num_options=4, world_knowledge=True),
    )
    return Spec(
        task=task,
        family="choice",
        draw=partial(_draw, order=order),
        answer=partial(_answer, order=order, rank=rank),
    )


def _draw(rng: random.Random, stratum: str, order: Sequence[str]) -> Choice:
    return Choice(tuple(rng.sample(order, 4)))


def _answer(choice: Choice, order: Sequence[str], rank: int) -> str | None:
    if any(option not in order for option in choice.options):
        return None
    return sorted(choice.options, key=order.index)[rank]
