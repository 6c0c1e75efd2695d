"""The route plan: what the rows of one batch do in every layer, worked out once per model call.

Legend for shapes, here and in ``moe_tasks.experts``:
    B rows of the batch, T different tasks among them, L routed layers, m experts,
    S sequence positions, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["select", "merge"]


@dataclass(frozen=True)
class Segment:
    """Rows ``start:stop`` of the reordered batch that share one parameter set.

    ``key`` is an expert's number (``select``) or a task's place among the batch's T (``merge``).
    """

    key: int
    start: int
    stop: int


@dataclass(frozen=True)
class LayerRoute:
    """One layer's share of the plan, read by the expert banks of that layer.

    Attributes:
        weights: ``[T, m]`` route of each task of the batch; carries the router's gradient.
        row_task: ``[B]`` place of each row's task among the T.
        order, inverse: ``[B]`` permutation that brings equal keys together, and back; ``None``
            where the rows already lie so.
        segments: runs of equal key, in permuted order.
        task_segments: runs of one task each, in permuted order; they refine ``segments``.
        rows_per_task: how many, where rows lie task by task, equally many each; else ``None``.
    """

    mode: Mode
    weights: Tensor
    row_task: Tensor
    order: Tensor | None
    inverse: Tensor | None
    segments: tuple[Segment, ...]
    task_segments: tuple[Segment, ...]
    rows_per_task: int | None

    @property
    def learns(self) -> bool:
        """Whether the router wants a gradient through this layer."""
        return self.weights.requires_grad and torch.is_grad_enabled()

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
    weights: Tensor
    row_task: tuple[int, ...]

    @staticmethod
    def build(weights: Tensor, row_task: list[int], mode: Mode) -> RoutePlan:
        """Plan for rows whose tasks are ``row_task`` (places among the T) with ``weights``.

        ``select`` takes each task's strongest expert; it needs one host-device synchronisation
        (``argmax`` to the host) per call and sends one tensor back.
        """
        num_layers = weights.shape[0]
        row_task_tensor = torch.tensor(row_task, device=weights.device)
        if mode == "select":
            keys = weights.detach().argmax(-1).tolist()
        else:
            keys = [list(range(weights.shape[1]))] * num_layers
        orders = [_grouped(row_task, layer_keys) for layer_keys in keys]
        # One transfer for all layers' permutations and their inverses.
        order_tensor = torch.tensor(orders).reshape(num_layers, len(row_task))
        both = torch.stack([order_tensor, order_tensor.argsort(-1)]).to(weights.device)
        rows_per_task = _rows_per_task(row_task)
        layers = []
        for index, (layer_keys, order) in enumerate(zip(keys, orders, strict=True)):
            in_place = order == list(range(len(row_task)))
            tasks = [row_task[i] for i in order]
            layers.append(
                LayerRoute(
                    mode=mode,
                    weights=weights[index],
                    row_task=row_task_tensor,
                    order=None if in_place else both[0, index],
                    inverse=None if in_place else both[1, index],
                    segments=_segments([layer_keys[t] for t in tasks]),
                    task_segments=_segments(tasks),
                    rows_per_task=rows_per_task,
                )
            )
        return RoutePlan(tuple(layers), mode, weights, tuple(row_task))

    def repeat_rows(self, times: int) -> RoutePlan:
        """The plan of a batch whose rows each occur ``times`` in a row, as beams do."""
        rows = [task for task in self.row_task for _ in range(times)]
        return RoutePlan.build(self.weights, rows, self.mode)


def _grouped(row_task: list[int], keys: list[int]) -> list[int]:
    return sorted(range(len(row_task)), key=lambda row: (keys[row_task[row]], row_task[row], row))


def _rows_per_task(row_task: list[int]) -> int | None:
    count, rest = divmod(len(row_task), max(row_task) + 1)
    even = rest == 0 and row_task == [i // count for i in range(len(row_task))]
    return count if even else None


def _segments(keys: list[int]) -> tuple[Segment, ...]:
    borders = [i for i in range(len(keys) + 1) if i in (0, len(keys)) or keys[i] != keys[i - 1]]
    return tuple(Segment(keys[a], a, b) for a, b in pairwise(borders) if a < b)
