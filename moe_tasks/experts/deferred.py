"""Gradients of linear layers that wait until the backward pass has freed the activations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.experts.bank import banks_of
from moe_tasks.experts.grouped import GroupedFunction, Later, Linears
from moe_tasks.experts.products import by_task
from moe_tasks.routing.plan import LayerRoute, RoutePlan


def deferring(plan: RoutePlan, layers: Sequence[nn.Module]) -> RoutePlan:
    """``plan`` for a call of the routed ``layers`` that learns; it holds for one call."""
    if plan.mode != "select" or not torch.is_grad_enabled():
        return plan
    routes = []
    for route, layer in zip(plan.layers, layers, strict=True):
        own = route if route.gradient == "merge_st" else route.fixed()
        linears = {bank: bank.deferring(own) for bank in banks_of(layer)}
        waiting = {bank: those for bank, those in linears.items() if those is not None}
        if waiting:
            route = dataclasses.replace(route, deferred=Deferred(waiting, own))
        routes.append(route)
    return dataclasses.replace(plan, layers=tuple(routes))


# What a linear layer's weight gradients are made of: its bank, inputs, and outputs' gradients.
_Kept = tuple[Any, Tensor, Tensor]


class Deferred:
    """Gradients of a layer's linear layers that are worked out once activations are gone.

    A weight's gradient is a product of the layer's inputs and its outputs' gradients. Where these
    two are smaller than it (few tokens per expert, as in the decoder of short targets) they are
    kept in its place until the backward pass has left the layers before. That is a matter of order
    only: of the nodes that are ready, autograd runs the one that was made last, and this one is
    made before the model's first layer runs.

    Args:
        linears: by bank, of those that may leave gradients here.
        route: whose weights get a gradient.
    """

    def __init__(self, linears: Mapping[Any, Linears], route: LayerRoute) -> None:
        self._linears = linears
        # By call: another backward pass through the same one replaces what the first has left.
        self._kept: dict[int, _Kept] = {}
        self._numbers = itertools.count()
        used = [parameter for each in linears.values() for parameter in each.used()]
        self._handle: Tensor = _Deferred.apply(linears, self._kept, route, route.weights, *used)

    def place(self, bank: Any) -> Later | None:
        """For one call of ``bank``, if it may wait."""
        if bank not in self._linears:
            return None
        return Later(self._handle, partial(self._keep, next(self._numbers), bank))

    def _keep(self, number: int, bank: Any, x: Tensor, grad_y: Tensor) -> None:
        self._kept[number] = bank, x.detach(), grad_y  # with x's graph this would hold itself


class _Deferred(GroupedFunction):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        linears: Mapping[Any, Linears],
        kept: dict[int, _Kept],
        route: LayerRoute,
        p: Tensor,
        *used: Tensor,
    ) -> Tensor:
        ctx.linears, ctx.kept, ctx.route = linears, kept, route
        ctx.set_materialize_grads(False)
        return p.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: None) -> tuple[Any, ...]:  # type: ignore[override]
        _, _, _, for_p, *for_used = ctx.needs_input_grad
        stops = list(itertools.accumulate(each.num_used for each in ctx.linears.values()))
        places = dict(zip(ctx.linears, map(slice, [0, *stops], stops), strict=False))
        grad_p: Tensor | None = None
        grads: list[Tensor | None] = [None] * len(for_used)
        while ctx.kept:
            _, (bank, x, grad_y) = ctx.kept.popitem()
            place = places[bank]
            more_p, more = ctx.linears[bank].gradients(x, grad_y, for_p, for_used[place])
            grad_p = _sum(grad_p, more_p)
            grads[place] = list(map(_sum, grads[place], more))
        return None, None, None, by_task(ctx.route, grad_p), *grads


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
