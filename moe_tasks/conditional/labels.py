"""What encoders with heads learn from: numbers of labels instead of the tokens of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy

from moe_tasks.conditional.labelled_head import HeadConfig, Kind
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.metrics import finite_number
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.training.data import Tokens


def label_names(collection: TaskCollection, task: str) -> tuple[str, ...]:
    """A task's labels in the order of their numbers; none of a regression.

    Raises:
        UserError: the collection does not say what the task's labels are.
    """
    features = collection.task(task).features
    if "labels" not in features:
        raise UserError(
            f"task {task!r} has no list of labels; encoders with heads learn tasks with labels or "
            "numbers (tasks=glue): take a sequence-to-sequence backbone for texts"
        )
    return tuple(features["labels"])


def kind_of(collection: TaskCollection, task: str) -> Kind:
    """The kind of head that a task needs, by ``Task.features["head_kind"]``.

    That of a task that says nothing is ``classification``, or ``regression`` without labels. A
    choice is learned as a classification of pairs of a question and one of its options.

    Raises:
        UserError: a choice whose rows are no such pairs.
    """
    features = collection.task(task).features
    kind = features.get("head_kind")
    if kind == "choice" and "labels" not in features:
        raise UserError(
            f"task {task!r} is a choice among options, of which encoders need a row each: set "
            "tasks.pairs=true, or leave it out of tasks.tasks"
        )
    if kind == "choice":
        return "classification"
    return kind or ("classification" if label_names(collection, task) else "regression")


def is_choice(collection: TaskCollection, task: str) -> bool:
    """Whether a task's rows are pairs of a question and one of its options."""
    features = collection.task(task).features
    return features.get("head_kind") == "choice" and "labels" in features


def head_of(collection: TaskCollection, task: str) -> str:
    """The task whose head scores ``task``: itself, but for MNLI's second dev set."""
    return collection.task(task).features.get("head", task)


def head_configs(
    collection: TaskCollection,
    tasks: Sequence[str],
    pools: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, HeadConfig]:
    """The head of every task.

    Args:
        pools: task -> its training rows, from whose numbers' mean and in whose standard deviations
            a regression learns; ``None`` leaves numbers as they are.

    Raises:
        UserError: a task without labels, or of a kind that no encoder learns here.
    """
    return {
        task: _head_config(collection, task, None if pools is None else pools[task])
        for task in tasks
    }


def _head_config(collection: TaskCollection, task: str, rows: Sequence[int] | None) -> HeadConfig:
    kind = kind_of(collection, task)
    if kind == "span":
        return HeadConfig(kind, 2)
    names = label_names(collection, task)
    if kind != "regression":
        return HeadConfig(kind, len(names))
    return HeadConfig(kind, 1, *(_unit(collection, task, rows) if rows else ()))


def _unit(collection: TaskCollection, task: str, rows: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation of the numbers of ``rows``; a deviation of 1 of equal ones."""
    outputs = collection.rows[list(rows)]["outputs"]
    numbers = numpy.array([_number_of(task, texts[0]) for texts in outputs])
    return float(numbers.mean()), float(numbers.std()) or 1.0


class LabelRows:
    """A collection's rows as token ids and label numbers (see :class:`Tokens`)."""

    def __init__(self, collection: TaskCollection, tokens: Tokens) -> None:
        self._collection, self._tokens = collection, tokens
        self._numbers: dict[str, dict[str, float]] = {}

    def sources(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        """Ids of the inputs."""
        return self._tokens.sources(rows)

    def targets(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        """One float32 each: the number of a row's label, or a regression's value."""
        table = self._collection.rows[list(rows)]
        pairs = zip(table["task"], table["outputs"], strict=True)
        return [numpy.array([self._number(t, outputs[0])], numpy.float32) for t, outputs in pairs]

    def _number(self, task: str, label: str) -> float:
        if task not in self._numbers:
            names = label_names(self._collection, task)
            self._numbers[task] = {name: float(number) for number, name in enumerate(names)}
        known = self._numbers[task]
        if not known:
            return _number_of(task, label)
        if label not in known:
            raise UserError(f"task {task!r}: label {label!r}; {nearest(label, known)}")
        return known[label]


def _number_of(task: str, label: str) -> float:
    number = finite_number(label)
    if number is None:
        raise UserError(f"task {task!r}: label {label!r}; expected a number")
    return number
