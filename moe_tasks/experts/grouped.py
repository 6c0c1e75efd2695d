"""Linear layers whose rows use different experts, with the ``merge_st`` router gradient.

The gradient with respect to the route is that of passing straight through parameter merging:
``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, where ``dL/dW_t`` is summed over task t's rows.
Experts that no row uses get no gradient at all (``None``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.experts.products import Factor, inner, of_segments, products, run_grads, run_sums
from moe_tasks.routing.plan import Block, LayerRoute


class GroupedFunction(torch.autograd.Function):
    """With inputs for every expert in use, called without torch's look at each."""

    @classmethod
    def apply(cls, *args: Any) -> Any:  # type: ignore[override]
        # For functorch, which has no use for functions without ``setup_context`` anyway.
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


@dataclass(frozen=True)
class Later:
    """Where one call's gradients of weights and route are worked out later.

    Attributes:
        handle: what the call takes instead of the parameters in use.
        leave: called in its backward pass with the grouped inputs and their outputs' gradients.
    """

    handle: Tensor
    leave: Callable[[Tensor, Tensor], None]


class Factors(NamedTuple):
    """Of the blocks of rows: for outputs, and for the gradients of inputs."""

    onward: tuple[Factor, ...]
    back: tuple[Factor, ...]


class Linears:
    """The m versions of a linear layer, or of several that have one input: then one product.

    Args:
        weights, biases: of the layers, one after the other.

    Attributes:
        sizes: outputs of each layer.
        wait: whether gradients had better be worked out later, as far as the last call tells.
    """

    def __init__(self, weights: Versions, biases: Versions | None) -> None:
        self.weights, self.biases = weights, biases
        self._kinds = (weights,) if biases is None else (weights, biases)
        self.sizes = [len(weight) for weight in weights.of(0)]
        self.wait = True
        # The numbers as the last call found them, and what products take of them, by block.
        self._found: tuple[Tensor | None, Tensor | None] = (None, None)
        self._factors: dict[tuple[int, int], tuple[Factor, Factor]] = {}

    def pack(self) -> None:
        """Move them into one piece of memory."""
        for kind in self._kinds:
            kind.pack()

    def packed(self, call: object | None) -> bool:
        """Whether they still lie so."""
        return all(kind.packed(call) is not None for kind in self._kinds)

    def __call__(self, x: Tensor, route: LayerRoute) -> Tensor:
        """``x [B, ..., in] -> [B, ..., out]``, each row through the expert its task selected."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return self._outputs(x, route)
        x = x.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return self._outputs(x, route)

    def _outputs(self, x: Tensor, route: LayerRoute) -> Tensor:
        x = route.gather(x)
        if not torch.is_grad_enabled():
            return route.scatter(self.outputs(x, route))
        self.wait = self._outweigh(x, route)
        later = route.deferred.place(self) if self.wait and route.deferred is not None else None
        if later is None:
            y = _GroupedLinear.apply(x, route.run_weights, self, route, None, *self.used(route))
        else:
            y = _GroupedLinear.apply(x, None, self, route, later.leave, later.handle)
        return route.scatter(y)

    def used(self, route: LayerRoute) -> list[Tensor]:
        return used_parameters(route, self._kinds)

    def outputs(self, x: Tensor, route: LayerRoute) -> Tensor:
        """``[B, ..., out]`` of grouped rows."""
        return products(x, route.blocks, self.factors(route).onward)

    def input_gradients(self, grad_y: Tensor, route: LayerRoute) -> Tensor:
        """``[B, ..., in]`` of grouped rows."""
        return products(grad_y, route.blocks, self.factors(route).back)

    def factors(self, route: LayerRoute) -> Factors:
        """What each block of rows, and of gradients, is multiplied with."""
        if self in route.prepared:
            return route.prepared[self]
        call, known = route.call, self._factors
        weight = self.weights.block(call)
        bias = None if self.biases is None else self.biases.block(call)
        if call is None or not self.packed(call):
            known = {}  # of copies, which are not kept
        elif weight is not self._found[0] or bias is not self._found[1]:
            self._found = weight, bias
            known.clear()
        for block in route.blocks:
            if (block.key, block.count) not in known:
                known[block.key, block.count] = _factors(weight, bias, block)
        onward, back = zip(*(known[block.key, block.count] for block in route.blocks), strict=True)
        factors = Factors(onward, back)
        if known is self._factors:
            route.prepared[self] = factors
        return factors

    def _outweigh(self, x: Tensor, route: LayerRoute) -> bool:
        """Whether the weights' gradients have more numbers than ``x [B, ..., in]`` and outputs."""
        width, inner_width = sum(self.sizes), x.shape[-1]
        count = len(route.segments) if self.weights.first.requires_grad else 0
        return x.numel() // inner_width * (width + inner_width) < count * width * inner_width

    def gradients(
        self, x: Tensor, grad_y: Tensor, route: LayerRoute, for_p: bool, for_used: Sequence[bool]
    ) -> tuple[Tensor | None, list[Any]]:
        """Of grouped rows: the route's by run ``[runs, m]``, and those of the parameters in use."""
        for_any = any(for_used)
        if not (for_p or for_any):
            return None, [None] * len(for_used)
        blocks = route.task_blocks if for_p else route.blocks
        by_run = [run_grads(x.contiguous(), grad_y, blocks)]
        if self.biases is not None:
            by_run.append(run_sums(grad_y, blocks))
        grad_p: Tensor | None = None
        grads: list[Any] = []
        for versions, grad in zip(self._kinds, by_run, strict=True):
            if for_p:
                found = with_experts(grad, versions, route)
                grad_p = found if grad_p is None else grad_p.add_(found)
            if for_any:
                grads += self._by_layer(of_segments(grad, route, versions.first.dtype))
        return grad_p, wanted_only(grads, for_used) if for_any else [None] * len(for_used)

    def _by_layer(self, grads: list[Any]) -> list[Any]:
        if len(self.sizes) == 1:
            return grads
        return [own for grad in grads for own in grad.split_with_sizes(self.sizes)]


def _factors(weight: Tensor, bias: Tensor | None, block: Block) -> tuple[Factor, Factor]:
    """What rows are multiplied with forward, and gradients back."""
    first, count = block.key, block.count
    if count == 1:
        own, added = weight[first], None if bias is None else bias[first]
    else:
        own = weight[first : first + count]
        added = None if bias is None else bias[first : first + count, None]
    return (own.mT, added), (own, None)


def used_parameters(route: LayerRoute, kinds: Sequence[Versions]) -> list[Tensor]:
    """Parameters of the experts in use, of each of ``kinds`` in the order of the segments."""
    keys = [segment.key for segment in route.segments]
    return [parameter for kind in kinds for key in keys for parameter in kind.of(key)]


def with_experts(grads: Tensor, versions: Versions, route: LayerRoute) -> Tensor:
    """Inner products ``[R, m]`` of gradients ``[R, ...]`` with all experts' parameters."""
    experts = route.compared(versions.of(0), versions.block(route.call))
    return inner(grads, experts).to(route.weights.dtype)


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
        route: LayerRoute,
        leave: Callable[[Tensor, Tensor], None] | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.linears, ctx.route, ctx.leave = linears, route, leave
        ctx.save_for_backward(x)
        return linears.outputs(x, route)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        linears, route, leave = ctx.linears, ctx.route, ctx.leave
        for_x, for_p, _, _, _, *for_used = ctx.needs_input_grad
        grad_y = grad_y.contiguous()
        grad_x = linears.input_gradients(grad_y, route) if for_x else None
        if leave is not None:
            leave(x, grad_y)
            return grad_x, None, None, None, None, None
        grad_p, grads = linears.gradients(x, grad_y, route, for_p, for_used)
        return grad_x, grad_p, None, None, None, *grads


def wanted_only(grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    if all(wanted):
        return list(grads)
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
