"""What a task of the embedded suite is made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from moe_tasks.tasks.base import Example, Split, Task


class Item(Protocol):
    """One input of a family, with its structure."""

    @property
    def text(self) -> str:
        """The input as a model reads it."""
        ...

    @property
    def key(self) -> object:
        """Inputs with equal keys count as the same row, whatever their order or wording."""
        ...


@dataclass(frozen=True)
class Spec:
    """One task: how its inputs are drawn and answered.

    Attributes:
        family: name of the input family; tasks of one family draw inputs of one kind.
        draw: an input that belongs to a stratum.
        answer: the answer of any item of the family, None where the task does not apply to it.
        strata: what rows are balanced over (labels, entities of closed-book facts).
        labels: the answers of a classification task.
        parts: tasks this one composes; all of them are trained where this one is unseen.
        can_be_unseen: False where a few examples teach the task without any other.
        held_out: strata by row split where the task is unseen (its test rows then ask about
            other entities than its few examples show); None: all strata in every split.
    """

    task: Task
    family: str
    draw: Callable[[random.Random, str], Item]
    answer: Callable[[Any], str | None]
    strata: tuple[str, ...] = ("",)
    labels: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    can_be_unseen: bool = True
    held_out: Mapping[Split, tuple[str, ...]] | None = field(default=None)

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def shots(self) -> int:
        """Rows of a few-shot sample: 16 per class, or 32."""
        return 16 * len(self.labels) if self.labels else 32

    def example(self, item: Item) -> Example:
        answer = self.answer(item)
        if answer is None:
            raise ValueError(f"task {self.name!r} drew an input it cannot answer: {item.text!r}")
        options = self.labels or tuple(getattr(item, "options", ()))
        return Example(item.text, (answer,), options)


def features(
    *, k: int = 32, num_options: int = 0, extractive: bool = False, world_knowledge: bool = False
) -> dict[str, Any]:
    """The flags of the gym's ``tasks.json``; classification is what has 16 rows per class."""
    return {
        "classification": k == 16,
        "extractive": extractive,
        "world_knowledge": world_knowledge,
        "num_options": num_options,
        "k": k,
    }
