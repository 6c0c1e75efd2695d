"""Linear layers whose rows use different experts, with the ``merge_st`` router gradient.

The gradient with respect to the route is that of passing straight through parameter merging:
``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, where ``dL/dW_t`` is summed over task t's rows.
Experts that no row uses get no gradient at all (``None``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.experts.products import by_task, inner, of_segments, products, run_grads
from moe_tasks.routing.plan import LayerRoute


class GroupedFunction(torch.autograd.Function):
    """With inputs for every expert in use, called without torch's look at each."""

    @classmethod
    def apply(cls, *args: Any) -> Any:  # type: ignore[override]
        # For functorch, which has no use for functions without ``setup_context`` anyway.
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


@dataclass(frozen=True)
class Linears:
    """The versions of a bank's linear layers, as one layer's route uses them."""

    route: LayerRoute
    weights: Versions
    biases: Versions | None

    def used(self) -> list[Tensor]:
        return used_parameters(self.route, self.weights, self.biases)

    def outputs(self, x: Tensor) -> Tensor:
        """``[B, ..., out]`` of grouped rows."""
        bias = None if self.biases is None else self.biases.block
        return products(x, self.route.blocks, self.weights.block.mT, bias)

    def outweigh(self, x: Tensor) -> bool:
        """Whether the weights' gradients have more numbers than ``x [B, ..., in]`` and outputs."""
        weight = self.weights.parameters[0]
        rows, (width, inner_width) = x.numel() // x.shape[-1], weight.shape
        gradients = len(self.route.segments) * weight.numel() if weight.requires_grad else 0
        return rows * (width + inner_width) < gradients

    def gradients(
        self, x: Tensor, grad_y: Tensor, for_p: bool, for_used: Sequence[bool]
    ) -> tuple[Tensor | None, list[Any]]:
        """Gradients of the route, ``[T, m]``, and of the parameters in use, from grouped rows."""
        if not (for_p or any(for_used)):
            return None, [None] * len(for_used)
        route, kinds = self.route, [k for k in (self.weights, self.biases) if k is not None]
        blocks = route.task_blocks if for_p else route.blocks
        by_run = run_grads(x.contiguous(), grad_y, blocks, of_bias=len(kinds) > 1)
        grad_p, grads = None, []
        for versions, grad in zip(kinds, by_run, strict=True):
            first, block = versions.parameters[0], versions.block
            if for_p:
                found = inner(grad, route.compared(first, block))
                grad_p = found if grad_p is None else grad_p + found
            runs = route.runs_of_segments if for_p else None
            grads += of_segments(grad, runs, block.dtype) if any(for_used) else []
        grads = wanted_only(grads, for_used) if grads else [None] * len(for_used)
        return None if grad_p is None else by_task(route, grad_p), grads


class Deferred:
    """Gradients of a bank's linear layers that are worked out once activations are gone.

    A weight's gradient is a product of the layer's inputs and its outputs' gradients. Where these
    two are smaller than it (few tokens per expert, as in the decoder of short targets) they are
    kept in its place until the backward pass has left the layers before. That is a matter of order
    only: of the nodes that are ready, autograd runs the one that was made last, and this one is
    made before the model's first layer runs.
    """

    def __init__(self, linears: Linears) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._calls = 0
        p = linears.route.weights
        self.handle: Tensor = _Deferred.apply(linears, self._kept, p, *linears.used())

    def next_call(self) -> int:
        self._calls += 1
        return self._calls

    def keep(self, call: int, x: Tensor, grad_y: Tensor) -> None:
        self._kept[call] = (x.detach(), grad_y)  # with x's graph this would hold itself


class _Deferred(GroupedFunction):
    """Its output is an input of every call that may leave its gradients here."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, linears: Linears, kept: dict[int, tuple[Tensor, Tensor]], p: Tensor, *used: Tensor
    ) -> Tensor:
        ctx.linears, ctx.kept = linears, kept
        ctx.set_materialize_grads(False)
        return p.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: None) -> tuple[Any, ...]:  # type: ignore[override]
        _, _, for_p, *for_used = ctx.needs_input_grad
        total: list[Any] = [None] * (1 + len(for_used))
        while ctx.kept:
            grad_p, grads = ctx.linears.gradients(*ctx.kept.popitem()[1], for_p, for_used)
            for place, grad in enumerate((grad_p, *grads)):
                before = total[place]
                total[place] = grad if before is None else before + grad
        return None, None, *total


def grouped_linear(x: Tensor, linears: Linears, deferred: Deferred | None) -> Tensor:
    """``x [B, ..., in] -> [B, ..., out]``, each row through the expert its task selected.

    Args:
        deferred: where gradients of weights and route are left to be worked out, if anywhere.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _linear(x, linears, deferred)
    x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _linear(x, linears, deferred)


def _linear(x: Tensor, linears: Linears, deferred: Deferred | None) -> Tensor:
    route = linears.route
    x = route.gather(x)
    if not torch.is_grad_enabled():
        y = linears.outputs(x)
    elif deferred is None:
        y = _GroupedLinear.apply(x, route.weights, linears, None, *linears.used())
    else:
        y = _GroupedLinear.apply(x, None, linears, deferred, deferred.handle)
    return route.scatter(y)


def used_parameters(route: LayerRoute, weights: Versions, biases: Versions | None) -> list[Tensor]:
    """Parameters of the experts in use, in the order of the segments, weights first."""
    keys = [segment.key for segment in route.segments]
    used = [weights.parameters[key] for key in keys]
    return used if biases is None else used + [biases.parameters[key] for key in keys]


class _GroupedLinear(GroupedFunction):
    """Of grouped rows. Every product is written into its slice of the result.

    ``used`` are inputs for their gradients only; ``linears``, with all experts, holds their
    numbers. Backward reads them anew: in between they may be in no memory of this process.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        p: Tensor | None,
        linears: Linears,
        deferred: Deferred | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.linears, ctx.deferred = linears, deferred
        ctx.call = None if deferred is None else deferred.next_call()
        ctx.save_for_backward(x)
        return linears.outputs(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        linears, deferred = ctx.linears, ctx.deferred
        for_x, for_p, _, _, *for_used = ctx.needs_input_grad
        grad_y = grad_y.contiguous()
        grad_x = None
        if for_x:
            grad_x = products(grad_y, linears.route.blocks, linears.weights.block, None)
        if deferred is not None:
            deferred.keep(ctx.call, x, grad_y)
            return grad_x, None, None, None, None
        grad_p, grads = linears.gradients(x, grad_y, for_p, for_used)
        return grad_x, grad_p, None, None, *grads


def wanted_only(grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    if all(wanted):
        return list(grads)
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
