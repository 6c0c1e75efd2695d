"""Gradients of linear layers that wait until the backward pass has freed the activations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.bank import ExpertBank
from moe_tasks.experts.grouped import GroupedFunction, Later, Linears
from moe_tasks.routing.plan import LayerRoute, RoutePlan


def deferring(plan: RoutePlan, layers: Sequence[Sequence[ExpertBank]]) -> RoutePlan:
    """``plan`` for a call that learns, with the banks of each routed layer; it holds for one."""
    if plan.mode != "select" or not torch.is_grad_enabled():
        return plan
    routes = []
    for route, banks in zip(plan.layers, layers, strict=True):
        own = route if route.gradient == "merge_st" else route.fixed()
        waiting = [those for bank in banks for those in bank.deferring(own)]
        if waiting:
            route = dataclasses.replace(route, deferred=Deferred(waiting, own))
        routes.append(route)
    return dataclasses.replace(plan, layers=tuple(routes))


# What weight gradients are made of: their layer, where among the gradients of all parameters in use
# they belong, inputs and outputs' gradients.
_Kept = tuple[Linears, slice, Tensor, Tensor]


class Deferred:
    """Gradients of a layer's linear layers that are worked out once activations are gone.

    A weight's gradient is a product of the layer's inputs and its outputs' gradients. Where these
    two are smaller than it (few tokens per expert, as in the decoder of short targets) they are
    kept in its place until the backward pass has left the layers before. That is a matter of order
    only: of the nodes that are ready, autograd runs the one that was made last, and this one is
    made before the model's first layer runs.

    Args:
        waiting: what may leave gradients here.
        route: whose weights get a gradient.
    """

    def __init__(self, waiting: Sequence[Linears], route: LayerRoute) -> None:
        # By call: another backward pass through the same one replaces what the first has left.
        self._kept: dict[int, _Kept] = {}
        self._numbers = itertools.count()
        self._places: dict[Linears, slice] = {}
        used: list[Tensor] = []
        for linears in waiting:
            own = linears.used(route)
            self._places[linears] = slice(len(used), len(used) + len(own))
            used += own
        self._handle: Tensor = _Deferred.apply(self._kept, route, route.run_weights, *used)

    def place(self, linears: Linears) -> Later | None:
        """For one call of ``linears``, if they may wait."""
        place = self._places.get(linears)
        if place is None:
            return None
        return Later(self._handle, partial(self._keep, next(self._numbers), linears, place))

    def _keep(self, number: int, linears: Linears, place: slice, x: Tensor, grad_y: Tensor) -> None:
        # Detached: with x's graph this would hold itself.
        self._kept[number] = linears, place, x.detach(), grad_y


class _Deferred(GroupedFunction):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, kept: dict[int, _Kept], route: LayerRoute, p: Tensor, *used: Tensor
    ) -> Tensor:
        ctx.kept, ctx.route = kept, route
        ctx.set_materialize_grads(False)
        return p.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: None) -> tuple[Any, ...]:  # type: ignore[override]
        _, _, for_p, *for_used = ctx.needs_input_grad
        grad_p: Tensor | None = None
        grads: list[Tensor | None] = [None] * len(for_used)
        while ctx.kept:
            _, (linears, place, x, grad_y) = ctx.kept.popitem()
            more_p, more = linears.gradients(x, grad_y, ctx.route, for_p, for_used[place])
            grad_p = _sum(grad_p, more_p)
            grads[place] = list(map(_sum, grads[place], more))
        return None, None, grad_p, *grads


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
