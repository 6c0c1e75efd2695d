"""Multiple choice: one of four listed options, by kind or by rank; the answer is its text."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
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
    def key(self) -> frozenset[str]:
        return frozenset(self.options)


# name -> (list in rising order, rank among four options, wording)
_RANKS: Mapping[str, tuple[Sequence[str], int, str]] = {
    "largest_animal": (words.BY_SIZE, 3, "the largest animal"),
    "smallest_animal": (words.BY_SIZE, 0, "the smallest animal"),
    "fastest_animal": (words.BY_SPEED, 3, "the fastest animal"),
    "slowest_animal": (words.BY_SPEED, 0, "the slowest animal"),
    "highest_number": (words.NUMBERS, 3, "the highest number"),
    "lowest_number": (words.NUMBERS, 0, "the lowest number"),
    "second_highest_number": (words.NUMBERS, 2, "the second highest number"),
}


def specs() -> list[Spec]:
    kinds = [_kind(kind) for kind in words.THINGS]
    return kinds + [_rank(name, *entry) for name, entry in _RANKS.items()]


def _spec(
    name: str,
    group: str,
    wanted: str,
    draw: Callable[[random.Random, str], Choice],
    answer: Callable[[Choice], str | None],
) -> Spec:
    task = Task(
        name=f"choose-{name}",
        metric="ACC",
        category="multiple choice",
        subcategory=group,
        instruction=f"choose {wanted} .",
        features=features(num_options=4, world_knowledge=True),
    )
    return Spec(task=task, family="choice", draw=draw, answer=answer)


def _kind(kind: str) -> Spec:
    name = kind.split()[-1]
    members = words.THINGS[kind]
    draw, answer = partial(_draw_kinds, kind=kind), partial(_of_kind, members=members)
    return _spec(name, "the one of a kind", f"the {kind}", draw, answer)


def _rank(name: str, order: Sequence[str], rank: int, wanted: str) -> Spec:
    group = "rank of animals" if "animal" in name else "rank of numbers"
    draw = partial(_draw_ranked, order=order)
    return _spec(name, group, wanted, draw, partial(_ranked, order=order, rank=rank))


def _draw_kinds(rng: random.Random, stratum: str, kind: str) -> Choice:
    others = rng.sample([k for k in words.THINGS if k != kind], 3)
    options = [rng.choice(words.THINGS[k]) for k in (kind, *others)]
    rng.shuffle(options)
    return Choice(tuple(options))


def _draw_ranked(rng: random.Random, stratum: str, order: Sequence[str]) -> Choice:
    return Choice(tuple(rng.sample(order, 4)))


def _of_kind(choice: Choice, members: Sequence[str]) -> str | None:
    found = [option for option in choice.options if option in members]
    return found[0] if len(found) == 1 else None


def _ranked(choice: Choice, order: Sequence[str], rank: int) -> str | None:
    if any(option not in order for option in choice.options):
        return None
    return sorted(choice.options, key=order.index)[rank]
