"""Experts' gradients that wait until the backward pass has freed the activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.bank import ExpertBank
from moe_tasks.experts.block import Versions
from moe_tasks.experts.grouped import GroupedFunction
from moe_tasks.experts.pending import Pending
from moe_tasks.routing.plan import LayerRoute, RoutePlan


def deferring(plan: RoutePlan, layers: Sequence[Sequence[ExpertBank]]) -> RoutePlan:
    """``plan`` for a call that learns, with the banks of each routed layer; it holds for one."""
    if plan.mode != "select" or not torch.is_grad_enabled():
        return plan
    routes = []
    for route, banks in zip(plan.layers, layers, strict=True):
        own = route if route.gradient == "merge_st" else route.fixed()
        kinds = [those for bank in banks for those in bank.deferring(own)]
        if kinds:
            route = dataclasses.replace(route, deferred=Deferred.of(kinds, own))
        routes.append(route)
    return dataclasses.replace(plan, layers=tuple(routes))


@dataclass(frozen=True)
class Deferred:
    """Gradients of a layer's experts that are worked out once the layers before it are done.

    That is a matter of order only: of the nodes that are ready, autograd runs the one that was made
    last, and this one is made before the model's first layer runs.

    Attributes:
        handle: what calls take as an input in the parameters' place.
        pending: where their backward passes leave what gradients are made of.
    """

    handle: Tensor
    pending: Pending

    @staticmethod
    def of(kinds: Sequence[Versions], route: LayerRoute) -> Deferred:
        pending = Pending(kinds, route)
        handle: Any = _Deferred.apply(pending, route.run_weights, *pending.used)
        return Deferred(handle, pending)


class _Deferred(GroupedFunction):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, pending: Pending, p: Tensor, *used: Tensor
    ) -> Tensor:
        ctx.pending = pending
        ctx.set_materialize_grads(False)
        return p.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: None) -> tuple[Any, ...]:  # type: ignore[override]
        _, _, *for_used = ctx.needs_input_grad
        grad_p, grads = ctx.pending.work_out(for_used)
        return None, grad_p, *grads
