"""Linear layers whose rows use different experts, with the ``merge_st`` router gradient.

The gradient with respect to the route is that of passing straight through parameter merging:
``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, where ``dL/dW_t`` is summed over task t's rows.
Experts that no row uses get no gradient at all (``None``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.experts.products import inner, of_segments, products, run_grads
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
        blocks, call = self.route.blocks, self.route.call
        matrices = [weight.mT for weight in self.weights.parts(blocks, call)]
        biases = None if self.biases is None else self.biases.parts(blocks, call)
        return products(x, blocks, matrices, biases)

    def input_gradients(self, grad_y: Tensor) -> Tensor:
        """``[B, ..., in]`` of grouped rows."""
        blocks = self.route.blocks
        return products(grad_y, blocks, self.weights.parts(blocks, self.route.call), None)

    def outweigh(self, x: Tensor) -> bool:
        """Whether the weights' gradients have more numbers than ``x [B, ..., in]`` and outputs."""
        weight = self.weights.first
        rows, (width, inner_width) = x.numel() // x.shape[-1], weight.shape
        gradients = len(self.route.segments) * weight.numel() if weight.requires_grad else 0
        return rows * (width + inner_width) < gradients

    def gradients(
        self, x: Tensor, grad_y: Tensor, for_p: bool, for_used: Sequence[bool]
    ) -> tuple[Tensor | None, list[Any]]:
        """Of grouped rows: the route's by run ``[runs, m]``, and those of the parameters in use."""
        if not (for_p or any(for_used)):
            return None, [None] * len(for_used)
        route, kinds = self.route, [k for k in (self.weights, self.biases) if k is not None]
        blocks = route.task_blocks if for_p else route.blocks
        by_run = run_grads(x.contiguous(), grad_y, blocks, of_bias=len(kinds) > 1)
        grad_p, grads = None, []
        for versions, grad in zip(kinds, by_run, strict=True):
            block = versions.block(route.call)
            if for_p:
                found = inner(grad, route.compared(versions.first, block)).to(route.weights.dtype)
                grad_p = found if grad_p is None else grad_p.add_(found)
            grads += of_segments(grad, route, block.dtype) if any(for_used) else []
        return grad_p, wanted_only(grads, for_used) if grads else [None] * len(for_used)


@dataclass(frozen=True)
class Later:
    """Where one call's gradients of weights and route are worked out later.

    Attributes:
        handle: what the call takes instead of the parameters in use.
        leave: called in its backward pass with the grouped inputs and their outputs' gradients.
    """

    handle: Tensor
    leave: Callable[[Tensor, Tensor], None]


def grouped_linear(x: Tensor, route: LayerRoute, linears: Linears, later: Later | None) -> Tensor:
    """``x [B, ..., in] -> [B, ..., out]``, each row through the expert its task selected."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _linear(x, route, linears, later)
    x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _linear(x, route, linears, later)


def _linear(x: Tensor, route: LayerRoute, linears: Linears, later: Later | None) -> Tensor:
    x = route.gather(x)
    if not torch.is_grad_enabled():
        y = linears.outputs(x)
    elif later is None:
        y = _GroupedLinear.apply(x, route.run_weights, linears, None, *linears.used())
    else:
        y = _GroupedLinear.apply(x, None, linears, later.leave, later.handle)
    return route.scatter(y)


def used_parameters(route: LayerRoute, weights: Versions, biases: Versions | None) -> list[Tensor]:
    """Parameters of the experts in use, in the order of the segments, weights first."""
    keys = [segment.key for segment in route.segments]
    kinds = [weights] if biases is None else [weights, biases]
    return [of_all[key] for of_all in (kind.parameters for kind in kinds) for key in keys]


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
        leave: Callable[[Tensor, Tensor], None] | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.linears, ctx.leave = linears, leave
        ctx.save_for_backward(x)
        return linears.outputs(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        linears, leave = ctx.linears, ctx.leave
        for_x, for_p, _, _, *for_used = ctx.needs_input_grad
        grad_y = grad_y.contiguous()
        grad_x = linears.input_gradients(grad_y) if for_x else None
        if leave is not None:
            leave(x, grad_y)
            return grad_x, None, None, None, None
        grad_p, grads = linears.gradients(x, grad_y, for_p, for_used)
        return grad_x, grad_p, None, None, *grads


def wanted_only(grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    if all(wanted):
        return list(grads)
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
