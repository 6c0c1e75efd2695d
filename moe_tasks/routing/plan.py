"""The route plan: what the rows of one batch do in every layer, worked out once per model call.

Legend for shapes, here and in ``moe_tasks.experts``:
    B rows of the batch, T different tasks among them, L routed layers, m experts,
    S sequence positions, D model width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

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
_FEW_SEGMENTS = 8


@dataclass(frozen=True)
class Segment:
    """Rows ``start:stop`` of the (reordered) batch that share one parameter set.

    ``key`` is an expert's number (``select``) or a task's place among the batch's T.
    """

    key: int
    start: int
    stop: int


@dataclass(frozen=True)
class LayerRoute:
    """One layer's share of the plan, read by the expert banks of that layer.

    Attributes:
        weights: ``[T, m]`` route of each task of the batch; carries the router's gradient.
        keys: per task, its expert (``select``) or its own place.
        row_task: ``[B]`` place of each row's task among the T.
        order, inverse: ``[B]`` permutation that brings equal keys together, and back; ``None``
            where the rows stay as they lie.
        segments: runs of equal key, in permuted order; a key has more than one where rows stay.
        task_segments: runs of one task each, in permuted order; they refine ``segments``.
    """

    mode: Mode
    gradient: RouterGradient
    weights: Tensor
    keys: tuple[int, ...]
    row_task: Tensor
    order: Tensor | None
    inverse: Tensor | None
    segments: tuple[Segment, ...]
    task_segments: tuple[Segment, ...]

    @property
    def learns(self) -> bool:
        """Whether the router wants a gradient through this layer."""
        return self.weights.requires_grad and torch.is_grad_enabled()

    def fixed(self) -> LayerRoute:
        """The same route without a gradient for the router."""
        return dataclasses.replace(self, weights=self.weights.detach())

    def first_rows(self) -> tuple[Tensor, Tensor]:
        """The first row of each task ``[T]``, and how many rows each has ``[T, 1]``."""
        rows = self.row_task.tolist()
        first = torch.tensor([rows.index(task) for task in range(len(self.keys))])
        counts = torch.bincount(self.row_task, minlength=len(self.keys))
        return first.to(self.row_task.device), counts[:, None]

    def of_rows(self, rows: Tensor) -> LayerRoute:
        """What :meth:`shifted` needs for some of the rows alone, still of all T tasks."""
        return dataclasses.replace(self, row_task=self.row_task.index_select(0, rows))

    def shifted(self, by: int) -> LayerRoute:
        """The route where every task selects the expert ``by`` places after its own."""
        num_experts = self.weights.shape[-1]
        keys = [(key + by) % num_experts for key in self.keys]
        rows, device = self.row_task.tolist(), self.weights.device
        order = torch.tensor(_order(rows, keys))
        both = torch.stack([order, order.argsort()]).to(device)
        shifted = torch.nn.functional.one_hot(torch.tensor(keys, device=device), num_experts)
        weights = shifted.to(self.weights.dtype)
        return _layer_route(self, keys, rows, order.tolist(), both, weights)

    def gather(self, x: Tensor) -> Tensor:
        """``x [B, ...]`` with equal keys together."""
        return x if self.order is None else x.index_select(0, self.order)

    def scatter(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`gather`."""
        return x if self.inverse is None else x.index_select(0, self.inverse)


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
        weights: Tensor, row_task: Sequence[int], mode: Mode, gradient: RouterGradient = "merge_st"
    ) -> RoutePlan:
        """Plan for rows whose tasks are ``row_task`` (places among the T) with ``weights``.

        ``select`` takes each task's strongest expert; it needs one host-device synchronisation
        (``argmax`` to the host) per call and sends one tensor back.
        """
        num_layers, num_tasks, num_experts = weights.shape
        if num_experts == 1:
            weights = weights.detach()  # there is nothing to choose, and so nothing to learn
        keys = [list(range(num_tasks))] * num_layers
        if mode == "select":
            keys = weights.detach().argmax(-1).tolist()
        orders = [_order(row_task, layer_keys) for layer_keys in keys]
        # One transfer for all layers' permutations and their inverses.
        order_tensor = torch.tensor(orders).reshape(num_layers, len(row_task))
        both = torch.stack([order_tensor, order_tensor.argsort(-1)]).to(weights.device)
        common = LayerRoute(
            mode=mode,
            gradient=gradient,
            weights=weights,
            keys=(),
            row_task=torch.tensor(row_task, device=weights.device),
            order=None,
            inverse=None,
            segments=(),
            task_segments=(),
        )
        layers = [
            _layer_route(common, layer_keys, row_task, order, both[:, index], weights[index])
            for index, (layer_keys, order) in enumerate(zip(keys, orders, strict=True))
        ]
        return RoutePlan(tuple(layers), mode, gradient, weights, tuple(row_task))

    def repeat_rows(self, times: int) -> RoutePlan:
        """The plan of a batch whose rows each occur ``times`` in a row, as beams do."""
        rows = [task for task in self.row_task for _ in range(times)]
        return RoutePlan.build(self.weights, rows, self.mode, self.gradient)


def _layer_route(
    common: LayerRoute,
    keys: Sequence[int],
    row_task: Sequence[int],
    order: Sequence[int],
    order_and_inverse: Tensor,
    weights: Tensor,
) -> LayerRoute:
    in_place = list(order) == list(range(len(row_task)))
    tasks = [row_task[i] for i in order]
    return dataclasses.replace(
        common,
        weights=weights,
        keys=tuple(keys),
        order=None if in_place else order_and_inverse[0],
        inverse=None if in_place else order_and_inverse[1],
        segments=_segments([keys[t] for t in tasks]),
        task_segments=_segments(tasks),
    )


def _order(row_task: Sequence[int], keys: Sequence[int]) -> list[int]:
    """An order of rows with equal keys together, or as they lie if that takes few segments.

    Sorting copies a layer's inputs and outputs, more segments make smaller products.
    """
    in_place = list(range(len(row_task)))
    if list(row_task) == sorted(row_task):
        num_segments = len(_segments([keys[task] for task in row_task]))
        if num_segments <= max(_FEW_SEGMENTS, 2 * len({keys[task] for task in row_task})):
            return in_place
    return _grouped(row_task, keys)


def _grouped(row_task: Sequence[int], keys: Sequence[int]) -> list[int]:
    return sorted(range(len(row_task)), key=lambda row: (keys[row_task[row]], row_task[row], row))


def _segments(keys: list[int]) -> tuple[Segment, ...]:
    borders = [i for i in range(len(keys) + 1) if i in (0, len(keys)) or keys[i] != keys[i - 1]]
    return tuple(Segment(keys[a], a, b) for a, b in pairwise(borders) if a < b)
