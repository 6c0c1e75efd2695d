"""One snapshot of a routes table as a matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform

from analysis.runs import ROUTE_COLUMNS
from moe_tasks.errors import UserError, nearest

Column = tuple[str, int, int]  # stack, layer, expert
_STACK_ORDER = {"encoder": 0, "decoder": 1}


@dataclass(frozen=True)
class Layer:
    """A routed layer: its ``columns`` in ``Snapshot.weights``."""

    stack: str
    layer: int
    columns: slice

    @property
    def name(self) -> str:
        """``encoder.0``."""
        return f"{self.stack}.{self.layer}"

    @property
    def num_experts(self) -> int:
        return self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Snapshot:
    """Routes of all tasks at one step.

    Attributes:
        tasks: columns ``task, category, subcategory``, one row per task.
        layers: encoder first; numbers need not be contiguous.
        weights: ``[tasks, layers * experts]``.
    """

    step: int
    tasks: pd.DataFrame
    layers: tuple[Layer, ...]
    weights: np.ndarray

    @cached_property
    def distances(self) -> np.ndarray:
        """``[tasks, tasks]``: total variation distance of two routes, mean over layers, 0 to 1."""
        if len(self.weights) < 2:
            return np.zeros((len(self.weights),) * 2)
        return squareform(pdist(self.weights, "cityblock")) / (2 * len(self.layers))

    def part(self, layers: Sequence[Layer], rows: Sequence[int] | None = None) -> Snapshot:
        """Only some layers, and of some tasks if ``rows`` are given."""
        chosen = range(len(self.weights)) if rows is None else rows
        columns = [column for at in layers for column in range(at.columns.start, at.columns.stop)]
        starts = np.cumsum([0, *(at.num_experts for at in layers)]).tolist()
        renumbered = tuple(
            Layer(at.stack, at.layer, slice(start, start + at.num_experts))
            for at, start in zip(layers, starts, strict=False)
        )
        weights = self.weights[np.ix_(list(chosen), columns)]
        tasks = self.tasks.iloc[list(chosen)].reset_index(drop=True)
        return Snapshot(self.step, tasks, renumbered, weights)

    @property
    def hard_experts(self) -> np.ndarray:
        """``[layers, tasks]``: the expert of the largest weight, the first of equal ones."""
        rounded = self.weights.round(6)
        return np.stack([rounded[:, layer.columns].argmax(axis=1) for layer in self.layers])


def snapshot(routes: pd.DataFrame, step: int | None = None) -> Snapshot:
    """The snapshot of ``step`` (the last one by default) of a routes table.

    Raises:
        UserError: no such step, or the table has a weight twice or lacks one.
    """
    if routes.empty:
        raise UserError("the routes table is empty")
    steps: list[int] = sorted(set(routes["step"].tolist()))
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(f"no routes at step {step}; {nearest(str(step), map(str, steps))}")
    tasks: dict[str, tuple[str, str]] = {}
    weights: dict[tuple[str, Column], float] = {}
    at_step = routes[(routes["step"] == step).to_numpy()]
    rows = zip(*(at_step[column].tolist() for column in ROUTE_COLUMNS), strict=True)
    for _, task, category, subcategory, *column, weight in rows:
        tasks.setdefault(task, (category, subcategory))
        key = (task, (column[0], column[1], column[2]))
        if key in weights:
            raise UserError(f"routes at step {step}: two weights for {_place(*key)}")
        weights[key] = weight
    columns = sorted({c for _, c in weights}, key=_order)
    for key in itertools.product(tasks, columns):
        if not math.isfinite(weights.get(key, math.nan)):
            raise UserError(f"routes at step {step}: no weight for {_place(*key)}")
    labels = [(task, category, subcategory) for task, (category, subcategory) in tasks.items()]
    return Snapshot(
        step=step,
        tasks=pd.DataFrame(labels, columns=pd.Index(["task", "category", "subcategory"])),
        layers=_layers(columns),
        weights=np.array([[weights[task, column] for column in columns] for task in tasks]),
    )


def _order(column: Column) -> tuple[int, str, int, int]:
    return (_STACK_ORDER.get(column[0], 2), *column)


def column_order(place: Mapping[str, Any]) -> tuple[int, str, int, int]:
    """Sorts mappings with ``stack, layer, expert`` as the columns of a snapshot."""
    return _order((place["stack"], place["layer"], place["expert"]))


def _layers(columns: list[Column]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for place, (stack, layer, _) in enumerate(columns):
        if layers and (layers[-1].stack, layers[-1].layer) == (stack, layer):
            layers[-1] = Layer(stack, layer, slice(layers[-1].columns.start, place + 1))
        else:
            layers.append(Layer(stack, layer, slice(place, place + 1)))
    return tuple(layers)


def _place(task: str, column: Column) -> str:
    stack, layer, expert = column
    return f"task {task!r}, {stack} layer {layer} expert {expert}"
