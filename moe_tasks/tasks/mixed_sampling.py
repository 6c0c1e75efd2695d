"""Batches out of all tasks' rows as if they were one: shuffled together, or task after task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.tasks.sampling import BatchSampler, shuffled

_ALL = "all tasks"


@register("sampling", "mixed")
@dataclass
class MixedSampling:
    """All rows shuffled together, each once per epoch: mixed batches of CA-MTL's baseline.

    Attributes:
        rows_per_batch: rows of any tasks.
    """

    rows_per_batch: int = 32

    def __post_init__(self) -> None:
        if self.rows_per_batch < 1:
            raise ValueError(f"rows_per_batch is {self.rows_per_batch}; it must be at least 1")

    def batch_size(self, num_tasks: int) -> int:
        """Rows of a batch."""
        return self.rows_per_batch

    def build(self, pools: Mapping[str, Sequence[int]], seed: int) -> MixedSampler:
        """The sampler over ``pools`` (task -> row numbers).

        Raises:
            UserError: there is no task, or one without rows.
        """
        empty = [task for task, rows in pools.items() if len(rows) == 0]
        if empty or not pools:
            raise UserError(f"no training rows for task {', '.join(map(repr, empty[:5])) or '?'}")
        return self._sampler(pools, seed)

    def _sampler(self, pools: Mapping[str, Sequence[int]], seed: int) -> MixedSampler:
        return MixedSampler(pools, self.rows_per_batch, seed)


class MixedSampler:
    """Draws ``rows_per_batch`` rows of all tasks together; answers as a ``BatchSampler``."""

    def __init__(self, pools: Mapping[str, Sequence[int]], rows_per_batch: int, seed: int) -> None:
        self.tasks, self._pools = tuple(pools), pools
        self._rows = numpy.concatenate(
            [numpy.asarray(rows, numpy.int64) for rows in pools.values()]
        )
        self._starts = numpy.array([0, *accumulate(len(rows) for rows in pools.values())])
        places = {_ALL: range(len(self._rows))}
        self._places = BatchSampler(places, {_ALL: 1.0}, 1, rows_per_batch, seed)
        self._drawn = dict.fromkeys(self.tasks, 0)

    @property
    def drawn(self) -> dict[str, int]:
        """Rows drawn so far, per task."""
        return dict(self._drawn)

    def next(self) -> list[tuple[str, list[int]]]:
        """The next batch: tasks in the order of the pools, each with its rows."""
        places = numpy.array(self._next_places())
        batch = []
        for task, (start, stop) in zip(self.tasks, pairwise(self._starts), strict=True):
            rows = self._rows[places[(places >= start) & (places < stop)]].tolist()
            if rows:
                batch.append((task, rows))
                self._drawn[task] += len(rows)
        return batch

    def _next_places(self) -> list[int]:
        return self._places.next()[0][1]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"places": self._places.state_dict(), "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; ``ValueError`` for other tasks' state."""
        if set(state["drawn"]) != set(self.tasks):
            raise ValueError("the sampler's state belongs to other tasks")
        self._places.load_state_dict(state["places"])
        self._drawn = {task: int(state["drawn"][task]) for task in self.tasks}

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able: what must be equal for a continued run to draw the same rows."""
        ones = dict.fromkeys(self.tasks, 1.0)
        own = BatchSampler(self._pools, ones, 1, 1, 0).fingerprint()
        return {**self._places.fingerprint(), "training rows": own["training rows"]}


@register("sampling", "sequential")
@dataclass
class SequentialSampling(MixedSampling):
    """Task after task: all batches of the first, then those of the second, and again.

    A task's last batch of an epoch has the rows that are left.
    """

    def _sampler(self, pools: Mapping[str, Sequence[int]], seed: int) -> MixedSampler:
        return _SequentialSampler(pools, self.rows_per_batch, seed)


class _SequentialSampler(MixedSampler):
    def __init__(self, pools: Mapping[str, Sequence[int]], rows_per_batch: int, seed: int) -> None:
        super().__init__(pools, rows_per_batch, seed)
        self._most, self._seed, self._batch = rows_per_batch, seed, 0
        self._batches = [-(-len(rows) // rows_per_batch) for rows in pools.values()]

    def _next_places(self) -> list[int]:
        epoch, number = divmod(self._batch, sum(self._batches))
        self._batch += 1
        task = int(numpy.searchsorted(numpy.cumsum(self._batches), number, side="right"))
        number -= sum(self._batches[:task])
        size = int(self._starts[task + 1] - self._starts[task])
        order = shuffled(size, self._seed, "rows", self.tasks[task], epoch)
        rows = order[number * self._most : (number + 1) * self._most]
        return (rows + self._starts[task]).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self._batch, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state["drawn"]) != set(self.tasks):
            raise ValueError("the sampler's state belongs to other tasks")
        self._batch = int(state["batch"])
        self._drawn = {task: int(state["drawn"][task]) for task in self.tasks}

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "sampling.order": "sequential"}
