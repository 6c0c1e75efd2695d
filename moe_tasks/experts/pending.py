"""Gradients of the experts in use and of the route, from what a layer's backward pass leaves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.experts.products import (
    inner,
    is_summed_in_place,
    of_segments,
    run_grads,
    run_sums,
    summed_in_place,
)
from moe_tasks.routing.plan import LayerRoute

if TYPE_CHECKING:
    from moe_tasks.experts.grouped import Linears


class Pending:
    """What calls of a layer's modules leave, until gradients are made of it.

    Of vectors (biases, norms) it is their gradients by run of rows: those of a whole layer are
    summed by expert, and compared with all experts, at once. Of a linear layer's weights it can be
    inputs and outputs' gradients, where these two are smaller than the gradient they make.

    Args:
        kinds: the parameters that get their gradients from here.
        route: whose weights get theirs.

    Attributes:
        used: of ``kinds``, the parameters of the experts in use.
    """

    def __init__(self, kinds: Sequence[Versions], route: LayerRoute) -> None:
        self.used: list[Tensor] = []
        self._places: dict[Versions, slice] = {}
        for kind in kinds:
            own = used_parameters(route, kind)
            self._places[kind] = slice(len(self.used), len(self.used) + len(own))
            self.used += own
        self._route, self._for_p = route, route.weights.requires_grad
        self._numbers = itertools.count()
        # By call: another backward pass through the same one replaces what the first has left.
        self._waiting: dict[int, tuple[Linears, Tensor, Tensor]] = {}
        self._sums: dict[int, tuple[Versions, Tensor]] = {}
        self._grads_p: dict[int, Tensor] = {}

    def __contains__(self, kind: Versions) -> bool:
        return kind in self._places

    def learns(self, kind: Versions) -> bool:
        """Whether its gradients are of use: an adapted model may have frozen experts and routes."""
        return self._for_p or any(own.requires_grad for own in self.used[self._places[kind]])

    def call(self) -> int:
        """A number for one call of a module."""
        return next(self._numbers)

    def wait(self, call: int, linears: Linears, x: Tensor, grad_y: Tensor) -> None:
        """Take grouped rows' inputs ``[B, ..., in]`` and outputs' gradients ``[B, ..., out]``."""
        self._waiting[call] = linears, x.detach(), grad_y  # with x's graph it would hold itself

    def add_vectors(self, call: int, kind: Versions, by_run: Tensor) -> None:
        """Take vectors' gradients ``[runs, D]``."""
        self._sums[call] = kind, by_run

    def weight_gradients(
        self, call: int, linears: Linears, x: Tensor, grad_y: Tensor, wanted: Sequence[bool]
    ) -> list[Any]:
        """Of the weights in use, at once; what else the same rows contribute to is kept."""
        route, grads = self._route, [None] * len(wanted)
        biases = linears.biases
        if biases is not None and self.learns(biases):
            self.add_vectors(call, biases, run_sums(grad_y, route.task_blocks))
        if not (self._for_p or any(wanted)):
            return grads
        x, weights = x.contiguous(), linears.weights
        every = experts_of((weights,), route) if self._for_p else None
        if every is not None and any(wanted) and is_summed_in_place(x, every, route):
            sums, by_run = summed_in_place(x, grad_y, every, route)
            self._grads_p[call] = by_run.to(route.weights.dtype)
            return wanted_only(linears.by_layer(sums), wanted)
        by_run = run_grads(x, grad_y, route.blocks if every is None else route.task_blocks)
        if every is not None:
            self._grads_p[call] = inner(by_run, every).to(route.weights.dtype)
        if not any(wanted):
            return grads
        by_run = by_run.to(weights.first.dtype)
        return wanted_only(linears.by_layer(of_segments(by_run, route)), wanted)

    def work_out(self, wanted: Sequence[bool]) -> tuple[Tensor | None, list[Any]]:
        """The route's gradient by run ``[runs, m]``, and those of ``used`` that are ``wanted``."""
        grads: list[Any] = [None] * len(wanted)
        while self._waiting:
            call, (linears, x, grad_y) = self._waiting.popitem()
            place = self._places[linears.weights]
            more = self.weight_gradients(call, linears, x, grad_y, wanted[place])
            grads[place] = map(_sum, grads[place], more)
        sums: dict[Versions, Tensor] = {}
        for kind, by_run in self._sums.values():
            if self._for_p or any(wanted[self._places[kind]]):
                sums[kind] = sums[kind] + by_run if kind in sums else by_run
        grad_p, of_vectors = self._vector_gradients(sums) if sums else (None, {})
        for kind, own in of_vectors.items():
            grads[self._places[kind]] = own
        for own in self._grads_p.values():
            grad_p = _sum(grad_p, own)
        self._sums.clear()
        self._grads_p.clear()
        return grad_p, wanted_only(grads, wanted)

    def _vector_gradients(
        self, sums: dict[Versions, Tensor]
    ) -> tuple[Tensor | None, dict[Versions, Sequence[Tensor]]]:
        """From gradients by run ``[runs, D]``: the route's, and those of each kind's parameters."""
        route, kinds = self._route, list(sums)
        # In the parameters' precision, whichever the products of rows have.
        with torch.autocast(route.weights.device.type, enabled=False):
            by_run = _beside([own.to(kind.first.dtype) for kind, own in sums.items()])
            grad_p = with_experts(by_run, kinds, route) if self._for_p else None
            totals = of_segments(by_run, route)
        # Each kind's apart, as its parameters lie.
        parts: Any = [totals]
        if len(kinds) > 1:
            widths = [own.shape[1] for own in sums.values()]
            parts = torch.split_with_sizes_copy(totals, widths, 1)
        grads: dict[Versions, Sequence[Tensor]] = {}
        for kind, part in zip(kinds, parts, strict=True):
            sizes = [parameter.numel() for parameter in kind.of(0)]
            grads[kind] = part.reshape(-1).split_with_sizes(sizes * len(part))
        return grad_p, grads


def used_parameters(route: LayerRoute, *kinds: Versions) -> list[Tensor]:
    """Parameters of the experts in use, of each of ``kinds`` in the order of the segments."""
    keys = [segment.key for segment in route.segments]
    return [parameter for kind in kinds for parameter in kind.of(*keys)]


def with_experts(grads: Tensor, kinds: Sequence[Versions], route: LayerRoute) -> Tensor:
    """Inner products ``[R, m]`` of gradients ``[R, ...]`` with all experts' parameters."""
    return inner(grads, experts_of(kinds, route)).to(route.weights.dtype)


def experts_of(kinds: Sequence[Versions], route: LayerRoute) -> Tensor:
    """All experts' parameters ``[m, ...]``, of several kinds one beside the other ``[m, D]``."""
    every = [route.compared(kind.of(0), kind.block(route.call)) for kind in kinds]
    return every[0] if len(every) == 1 else _beside([own.flatten(1) for own in every])


def wanted_only(grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    if all(wanted):
        return list(grads)
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]


def _beside(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
