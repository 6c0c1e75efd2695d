"""Which tasks and rows make the next batch.

Everything drawn is a pure function of the seed, the batch number and the rows drawn so far, so a
sampler's whole state is a few counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register


class BatchSampler:
    """Draws batches of ``rows_per_task`` rows from each of ``tasks_per_batch`` tasks.

    Tasks are drawn without replacement within a batch, one after the other in proportion to
    ``probabilities`` (successive sampling by the Gumbel-top-k trick, Kool et al. 2019). A task's
    rows come in a new shuffled order per epoch, each row once per epoch.

    Args:
        pools: task -> its row numbers; the order of the tasks is the order within a batch.
        probabilities: task -> weight, need not add up to 1; tasks of weight 0 are never drawn.
        tasks_per_batch: at most the number of tasks with a weight above 0.
        rows_per_task: may exceed a pool: then its rows repeat within the batch.
        seed: any whole number.

    Raises:
        UserError: no task can be drawn, or a task to draw has no rows.
        ValueError: names differ, a weight is negative or not finite, a size is below 1.
    """

    def __init__(
        self,
        pools: Mapping[str, Sequence[int]],
        probabilities: Mapping[str, float],
        tasks_per_batch: int,
        rows_per_task: int,
        seed: int,
    ) -> None:
        _check(pools, probabilities, tasks_per_batch, rows_per_task)
        self.tasks = tuple(pools)
        self.rows_per_task = rows_per_task
        self.seed = seed
        self._pools = {task: numpy.asarray(rows, numpy.int64) for task, rows in pools.items()}
        weights = numpy.array([probabilities[task] for task in self.tasks], numpy.float64)
        with numpy.errstate(divide="ignore"):
            self._log_weights = numpy.log(weights)
        self.tasks_per_batch = min(tasks_per_batch, int((weights > 0).sum()))
        self._batch = 0
        self._drawn = dict.fromkeys(self.tasks, 0)
        self._orders: dict[str, tuple[int, numpy.ndarray]] = {}

    @property
    def drawn(self) -> dict[str, int]:
        """Rows drawn so far, per task."""
        return dict(self._drawn)

    def next(self) -> list[tuple[str, list[int]]]:
        """The next batch: tasks in the order of the pools, each with its rows."""
        noise = -numpy.log(-numpy.log(uniform(len(self.tasks), self.seed, "batch", self._batch)))
        best = numpy.argsort(-(self._log_weights + noise), kind="stable")[: self.tasks_per_batch]
        self._batch += 1
        return [(self.tasks[i], self._take(self.tasks[i])) for i in sorted(best.tolist())]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the batch number and the rows drawn per task."""
        return {"batch": self._batch, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            ValueError: the state belongs to other tasks.
        """
        if set(state["drawn"]) != set(self.tasks):
            raise ValueError("the sampler's state belongs to other tasks")
        self._batch = int(state["batch"])
        self._drawn = {task: int(state["drawn"][task]) for task in self.tasks}

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able: what must be equal for a continued run to draw the same rows."""
        pools = hashlib.sha256()
        for task, weight in zip(self.tasks, self._log_weights.tolist(), strict=True):
            pools.update(f"{task}\0{weight!r}\0".encode())
            pools.update(self._pools[task].astype("<i8").tobytes())
        return {
            "sampling.tasks_per_batch": self.tasks_per_batch,
            "sampling.rows_per_task": self.rows_per_task,
            "sampling.seed": self.seed,
            "training rows": pools.hexdigest(),
        }

    def _take(self, task: str) -> list[int]:
        pool = self._pools[task]
        rows: list[int] = []
        while len(rows) < self.rows_per_task:
            epoch, position = divmod(self._drawn[task], len(pool))
            stop = min(len(pool), position + self.rows_per_task - len(rows))
            rows += pool[self._order(task, epoch)[position:stop]].tolist()
            self._drawn[task] += stop - position
        return rows

    def _order(self, task: str, epoch: int) -> numpy.ndarray:
        known = self._orders.get(task)
        if known is None or known[0] != epoch:
            order = shuffled(len(self._pools[task]), self.seed, "rows", task, epoch)
            known = self._orders[task] = (epoch, order)
        return known[1]


@register("sampling", "uniform")
@dataclass
class UniformSampling:
    """Every task equally often.

    Attributes:
        tasks_per_batch: different tasks in a batch, at most the number of tasks.
        rows_per_task: rows of each of them.
    """

    tasks_per_batch: int = 8
    rows_per_task: int = 4

    def __post_init__(self) -> None:
        for name in ("tasks_per_batch", "rows_per_task"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least 1")

    def batch_size(self, num_tasks: int) -> int:
        """Rows of a batch that train, where there are ``num_tasks`` tasks."""
        return min(self.tasks_per_batch, num_tasks) * self.rows_per_task

    def probabilities(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Weight of each task, adding up to 1, from its number of rows."""
        weights = {task: self._weight(size) if size else 0.0 for task, size in sizes.items()}
        total = sum(weights.values())
        return {task: weight / total if total else 0.0 for task, weight in weights.items()}

    def build(self, pools: Mapping[str, Sequence[int]], seed: int) -> BatchSampler:
        """The sampler over ``pools`` (task -> row numbers).

        Raises:
            UserError: there is no task, or one without rows.
        """
        empty = [task for task, rows in pools.items() if len(rows) == 0]
        if empty:
            raise UserError(f"no training rows for task {', '.join(map(repr, empty[:5]))}")
        weights = self.probabilities({task: len(rows) for task, rows in pools.items()})
        return BatchSampler(pools, weights, self.tasks_per_batch, self.rows_per_task, seed)

    def _weight(self, size: int) -> float:
        return 1.0


@register("sampling", "proportional")
@dataclass
class ProportionalSampling(UniformSampling):
    """Every task in proportion to its number of rows."""

    def _weight(self, size: int) -> float:
        return float(size)


@register("sampling", "temperature")
@dataclass
class TemperatureSampling(UniformSampling):
    """In proportion to size^(1/T): T=1 is proportional, a large T nearly uniform.

    Attributes:
        temperature: T (Arivazhagan et al. 2019, sec. 4.2).
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature!r}; it must be above 0")

    def probabilities(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """As for the other samplings; relative to the largest task, so that no power overflows."""
        largest = max(sizes.values(), default=1) or 1
        weights = {t: (size / largest) ** (1 / self.temperature) for t, size in sizes.items()}
        total = sum(weights.values())
        return {t: weight / total if total else 0.0 for t, weight in weights.items()}


def uniform(count: int, *key: object) -> numpy.ndarray:
    """``count`` numbers in (0, 1), a pure function of ``key`` on every machine and version."""
    text = "\0".join(map(str, key))
    words = numpy.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8")
    # Raw words, because numpy promises a stable stream for the bit generator only.
    raw = numpy.random.Philox(key=words).random_raw(count)
    return ((raw >> numpy.uint64(11)).astype(numpy.float64) + 0.5) / 2.0**53


def shuffled(count: int, *key: object) -> numpy.ndarray:
    """The numbers from 0 to ``count`` - 1 in an order that is a pure function of ``key``."""
    return numpy.argsort(uniform(count, *key), kind="stable")


def _check(
    pools: Mapping[str, Sequence[int]],
    probabilities: Mapping[str, float],
    tasks_per_batch: int,
    rows_per_task: int,
) -> None:
    if tasks_per_batch < 1 or rows_per_task < 1:
        raise ValueError("tasks_per_batch and rows_per_task must be at least 1")
    for task in set(pools) ^ set(probabilities):
        raise ValueError(f"task {task!r} has no rows or no weight; {nearest(task, pools)}")
    for task, weight in probabilities.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"task {task!r} has weight {weight!r}")
        if weight > 0 and len(pools[task]) == 0:
            raise UserError(f"no training rows for task {task!r}")
    if not any(weight > 0 for weight in probabilities.values()):
        raise UserError("there is no task to draw training rows from")
