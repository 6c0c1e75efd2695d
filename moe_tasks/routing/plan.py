"""The route plan: what the rows of one batch do in every layer, worked out once per model call.

Legend for shapes, here and in ``moe_tasks.experts``:
    B rows of the batch, T different tasks among them, L routed layers, m experts,
    S sequence positions, D model width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

# select: one expert per row and layer. mix: the weighted sum of all experts' outputs, as published,
# at m times the cost. merge: one pass with the weighted sum of the experts' parameters, another
# function than mix.
Mode = Literal["select", "mix", "merge"]
# Of a selected expert, for the router. merge_st: as if parameters had been merged. exact: as if
# outputs had been mixed, which runs the other experts too (forward only). probe: as exact, from one
# row per task.
RouterGradient = Literal["merge_st", "exact", "probe"]

# Numbers in a row that torch would copy with all threads (its grain size).
_LONG = 2**15


@dataclass(frozen=True)
class Segment:
    """Rows ``start:stop`` of the grouped batch that share one parameter set.

    ``key`` is an expert's number (``select``) or a task's place among the batch's T.
    """

    key: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """Neighbouring segments of equally many rows: ``count`` of them in rows ``start:stop``.

    They are one batched product, with the parameter sets ``key`` to ``key + count``.
    """

    key: int
    count: int
    start: int
    stop: int


@dataclass(frozen=True)
class LayerRoute:
    """One layer's share of the plan, read by the expert banks of that layer.

    Attributes:
        weights: ``[T, m]`` route of each task of the batch; carries the router's gradient.
        keys: per task, its expert (``select``) or its own place.
        row_task, row_key: ``[B]`` place of each row's task among the T, and that task's key.
        order, inverse: ``[B]`` permutation that groups the rows by key and, within, by task, and
            back; ``None`` where they lie so already.
        segments: runs of equal key of the grouped rows, one per key in use, in rising order.
        task_segments: runs of one task each; they refine ``segments``.
        everywhere: where experts are spread over processes, in the backward pass of this layer, all
            m experts' versions of a parameter by the first one that is here.
        call: the same while no parameter moves (:class:`~moe_tasks.experts.block.Versions`).
        deferred: what works out gradients late (:class:`~moe_tasks.experts.deferred.Deferred`).
        prepared: what banks have looked up for this route and will want again in the same ``call``.
    """

    mode: Mode
    gradient: RouterGradient
    weights: Tensor
    keys: tuple[int, ...]
    row_task: Tensor
    row_key: Tensor
    order: Tensor | None
    inverse: Tensor | None
    segments: tuple[Segment, ...]
    task_segments: tuple[Segment, ...]
    everywhere: Mapping[Tensor, Tensor] | None = None
    call: object | None = None
    deferred: Any = None
    prepared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def compared(self, firsts: Sequence[Tensor], own: Tensor) -> Tensor:
        """Parameters' versions ``[m, ...]``, with which the router's gradient compares.

        Args:
            firsts: of each parameter, the first version that is in this process.
            own: all that are, of several parameters one after the other.
        """
        if self.everywhere is None:
            return own
        every = [self.everywhere[first] for first in firsts]
        return every[0] if len(every) == 1 else torch.cat(every, 1)

    @property
    def learns(self) -> bool:
        """Whether the router wants a gradient through this layer."""
        return self.weights.requires_grad and torch.is_grad_enabled()

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """``segments``, those of equal size and following keys taken together."""
        return _blocks(self.segments, of_following_keys=True)

    @cached_property
    def task_blocks(self) -> tuple[Block, ...]:
        """``task_segments``, those of equal size taken together; only ``start:stop`` count."""
        return _blocks(self.task_segments, of_following_keys=False)

    @cached_property
    def runs_of_segments(self) -> tuple[slice, ...]:
        """Of each segment, its ``task_segments``."""
        return _runs_of(self.segments, self.task_segments)

    @cached_property
    def runs_in_segments(self) -> Tensor:
        """``[segments, runs]``, 1 where the run is the segment's."""
        numbers = range(len(self.task_segments))
        rows = [[float(n in numbers[run]) for n in numbers] for run in self.runs_of_segments]
        return torch.tensor(rows).to(self.row_task.device)

    @cached_property
    def runs_from_sums(self) -> Tensor:
        """``[runs, runs]``: what each run adds to the sum over its segment's runs up to it."""
        numbers = range(len(self.task_segments))
        firsts = {runs.start for runs in self.runs_of_segments}
        rows = [
            [float(n == run) - float(n == run - 1 and run not in firsts) for n in numbers]
            for run in numbers
        ]
        return torch.tensor(rows).to(self.row_task.device)

    @cached_property
    def run_tasks(self) -> Tensor:
        """The task ``[runs]`` of each of ``task_segments``."""
        tasks = [segment.key for segment in self.task_segments]
        return torch.tensor(tasks).to(self.row_task.device)

    @cached_property
    def tasks_in_order(self) -> bool:
        """Whether ``task_segments`` are just the tasks, one after the other."""
        return [segment.key for segment in self.task_segments] == list(range(len(self.keys)))

    @cached_property
    def run_weights(self) -> Tensor:
        """``[runs, m]`` route of each of ``task_segments``; a task has one run, or none.

        Asked for only where gradients are recorded, as this one is.
        """
        if self.tasks_in_order:
            return self.weights
        return self.weights.index_select(0, self.run_tasks)

    @cached_property
    def rows_of_tasks(self) -> Tensor:
        """``[T, B]``, 1 where the row is of the task."""
        tasks = torch.arange(len(self.keys), device=self.row_task.device)
        return (tasks[:, None] == self.row_task).to(self.weights.dtype)

    @cached_property
    def rows_of_segments(self) -> Tensor:
        """``[segments, B]``, 1 where the row has the segment's key."""
        keys = torch.tensor([segment.key for segment in self.segments]).to(self.row_key.device)
        return (keys[:, None] == self.row_key).to(self.weights.dtype)

    def fixed(self) -> LayerRoute:
        """The same route without a gradient for the router."""
        return dataclasses.replace(self, weights=self.weights.detach())

    def grouped(self) -> LayerRoute:
        """The route of rows that have gone through :meth:`gather`, for one call of the layer.

        A new one in any case: where activations are checkpointed, the call is repeated, and all
        that it records (``run_weights``) must be recorded again.
        """
        if self.order is None:
            return dataclasses.replace(self)
        return dataclasses.replace(
            self,
            row_task=self.row_task.index_select(0, self.order),
            row_key=self.row_key.index_select(0, self.order),
            order=None,
            inverse=None,
        )

    def first_rows(self) -> LayerRoute:
        """Of grouped rows, the route of only each task's first, which starts its segment."""
        rows = self.first_row_numbers()
        return dataclasses.replace(
            self,
            row_task=self.row_task.index_select(0, rows),
            row_key=self.row_key.index_select(0, rows),
            segments=segments_of([self.keys[segment.key] for segment in self.task_segments]),
            task_segments=segments_of([segment.key for segment in self.task_segments]),
        )

    def first_row_numbers(self) -> Tensor:
        """Of grouped rows, the number of each task's first ``[T]``, in their order."""
        starts = [segment.start for segment in self.task_segments]
        return torch.tensor(starts).to(self.row_task.device)

    def without(self, expert: int) -> tuple[slice, ...]:
        """Of grouped rows, where those are that another expert was selected for."""
        size = len(self.row_key)
        own = next((s for s in self.segments if s.key == expert), Segment(expert, size, size))
        spans = (slice(0, own.start), slice(own.stop, size))
        return tuple(span for span in spans if span.start < span.stop)

    def gather(self, x: Tensor) -> Tensor:
        """``x [B, ...]`` with equal keys together."""
        return x if self.order is None else permuted(x, *self._pieces(x, self.order, self.inverse))

    def scatter(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`gather`."""
        return x if self.order is None else permuted(x, *self._pieces(x, self.inverse, self.order))

    def _pieces(self, x: Tensor, order: Any, inverse: Any) -> tuple[Tensor, Tensor]:
        """The same for pieces of rows, ``[B * pieces]`` each, if rows are long."""
        pieces = _pieces_of_rows(x)
        if pieces == 1:
            return order, inverse
        known = self.prepared
        for numbers in (order, inverse):
            if (numbers, pieces) not in known:
                inside = torch.arange(pieces, device=x.device)
                known[numbers, pieces] = (numbers[:, None] * pieces + inside).flatten()
        return known[order, pieces], known[inverse, pieces]


def permuted(x: Tensor, order: Tensor, inverse: Tensor | None) -> Tensor:
    """``x [B, ...]`` with its rows, or equal pieces of them, in another order."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Permuted.apply(x, order, inverse)  # type: ignore[return-value]
    return _rearranged(x, order)


class _Permuted(torch.autograd.Function):
    """Rows in another order; torch's own backward would add them up one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:  # type: ignore[override]
        ctx.inverse = inverse
        return _rearranged(x, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _rearranged(grad, ctx.inverse), None, None


def _rearranged(x: Tensor, order: Tensor) -> Tensor:
    if order.shape[0] == x.shape[0]:
        return x.index_select(0, order)
    return x.reshape(order.shape[0], -1).index_select(0, order).view(x.shape)


def _pieces_of_rows(x: Tensor) -> int:
    """Torch copies long rows one by one, each with all threads: not so what is short."""
    size, pieces = x.numel() // max(x.shape[0], 1), 1
    while size >= _LONG and size % 2 == 0 and x.device.type == "cpu":
        size, pieces = size // 2, pieces * 2
    return pieces


@dataclass(frozen=True)
class RoutePlan:
    """Routes of one batch: ``weights [L, T, m]`` and, per row, the place of its task ``[B]``."""

    layers: tuple[LayerRoute, ...]
    mode: Mode
    gradient: RouterGradient
    weights: Tensor
    row_task: tuple[int, ...]

    @staticmethod
    def build(
        weights: Tensor,
        row_task: Sequence[int],
        mode: Mode,
        gradient: RouterGradient = "merge_st",
        *,
        stays: bool = False,
    ) -> RoutePlan:
        """Plan for rows whose tasks are ``row_task`` (places among the T) with ``weights``.

        Args:
            stays: that no parameter moves while the plan is used; where they lie is then looked up
                once.

        ``select`` takes each task's strongest expert; it needs one host-device synchronisation
        (``argmax`` to the host) per call and sends one tensor back.
        """
        num_layers, num_tasks, num_experts = weights.shape
        if num_experts == 1:
            weights = weights.detach()  # there is nothing to choose, and so nothing to learn
        keys = [list(range(num_tasks))] * num_layers
        if mode == "select":
            keys = weights.detach().argmax(-1).tolist()
        orders = [order_rows(row_task, layer_keys) for layer_keys in keys]
        row_keys = [[layer_keys[task] for task in row_task] for layer_keys in keys]
        # One transfer for everything that the device must know: [3 L + 1, B].
        host = torch.tensor([*orders, *row_keys, list(row_task)]).reshape(-1, len(row_task))
        host = torch.cat([host[:num_layers].argsort(-1), host])
        inverses, device_orders, device_keys, (device_tasks,) = host.to(weights.device).split(
            [num_layers, num_layers, num_layers, 1]
        )
        layers, call, by_layer = [], object() if stays else None, weights.unbind()
        for index, (layer_keys, order) in enumerate(zip(keys, orders, strict=True)):
            in_place = order == list(range(len(row_task)))
            tasks = [row_task[row] for row in order]
            layers.append(
                LayerRoute(
                    mode=mode,
                    gradient=gradient,
                    weights=by_layer[index],
                    keys=tuple(layer_keys),
                    row_task=device_tasks,
                    row_key=device_keys[index],
                    order=None if in_place else device_orders[index],
                    inverse=None if in_place else inverses[index],
                    segments=segments_of([layer_keys[task] for task in tasks]),
                    task_segments=segments_of(tasks),
                    call=call,
                )
            )
        return RoutePlan(tuple(layers), mode, gradient, weights, tuple(row_task))

    def repeat_rows(self, times: int) -> RoutePlan:
        """For generation, the plan of a batch whose rows each occur ``times`` in a row (beams)."""
        rows = [task for task in self.row_task for _ in range(times)]
        return RoutePlan.build(self.weights, rows, self.mode, self.gradient, stays=True)


def order_rows(row_task: Sequence[int], keys: Sequence[int]) -> list[int]:
    """Rows by key, and then by task as these first come."""
    first = {task: row for row, task in reversed(list(enumerate(row_task)))}
    rows = range(len(row_task))
    return sorted(rows, key=lambda row: (keys[row_task[row]], first[row_task[row]]))


def segments_of(keys: list[int]) -> tuple[Segment, ...]:
    borders = [i for i in range(len(keys) + 1) if i in (0, len(keys)) or keys[i] != keys[i - 1]]
    return tuple(Segment(keys[a], a, b) for a, b in pairwise(borders) if a < b)


@lru_cache(4096)  # the same few in every step, here and below
def _runs_of(segments: tuple[Segment, ...], runs: tuple[Segment, ...]) -> tuple[slice, ...]:
    stops = [run.stop for run in runs]
    borders = [0, *(stops.index(segment.stop) + 1 for segment in segments)]
    return tuple(slice(a, b) for a, b in pairwise(borders))


@lru_cache(4096)
def _blocks(segments: tuple[Segment, ...], of_following_keys: bool) -> tuple[Block, ...]:
    found: list[Block] = []
    for segment in segments:
        last = found[-1] if found else None
        if (
            last is not None
            and segment.rows * last.count == last.stop - last.start
            and (not of_following_keys or segment.key == last.key + last.count)
        ):
            found[-1] = Block(last.key, last.count + 1, last.start, segment.stop)
        else:
            found.append(Block(segment.key, 1, segment.start, segment.stop))
    return tuple(found)
