"""Linear layers whose rows use different experts, with the ``merge_st`` router gradient.

The gradient with respect to the route is that of passing straight through parameter merging:
``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, where ``dL/dW_t`` is summed over task t's rows.
Experts that no row uses get no gradient at all (``None``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.experts.pending import Pending, used_parameters
from moe_tasks.experts.products import Factor, products
from moe_tasks.routing.plan import Block, LayerRoute


class GroupedFunction(torch.autograd.Function):
    """With inputs for every expert in use, called without torch's look at each."""

    @classmethod
    def apply(cls, *args: Any) -> Any:  # type: ignore[override]
        # For functorch, which has no use for functions without ``setup_context`` anyway.
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


class Factors(NamedTuple):
    """Of the blocks of rows: for outputs, and for the gradients of inputs."""

    onward: tuple[Factor, ...]
    back: tuple[Factor, ...]


class Linears:
    """The m versions of a linear layer, or of several that have one input: then one product.

    Args:
        weights, biases: of the layers, one after the other.

    Attributes:
        kinds: weights and, if there are any, biases.
        sizes: outputs of each layer.
        wait: whether gradients had better be worked out later, as far as the last call tells.
    """

    def __init__(self, weights: Versions, biases: Versions | None) -> None:
        self.weights, self.biases = weights, biases
        self.kinds = (weights,) if biases is None else (weights, biases)
        self.sizes = [len(weight) for weight in weights.of(0)]
        self.wait = True
        # The numbers as the last call found them, and what products take of them, by block.
        self._found: tuple[Tensor | None, Tensor | None] = (None, None)
        self._factors: dict[tuple[int, int], tuple[Factor, Factor]] = {}

    def pack(self) -> None:
        """Move them into one piece of memory."""
        for kind in self.kinds:
            kind.pack()

    def packed(self, call: object | None) -> bool:
        """Whether they still lie so."""
        return all(kind.packed(call) is not None for kind in self.kinds)

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
        later, call = route.deferred, None
        if later is None or self.kinds[-1] not in later.pending:
            p, used = route.run_weights, used_parameters(route, *self.kinds)
        else:
            p, call = later.handle, later.pending.call()
            waits = self.wait and self.weights in later.pending
            used = [] if waits else used_parameters(route, self.weights)
        return route.scatter(_GroupedLinear.apply(x, p, self, route, call, *used))

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

    def by_layer(self, grads: Tensor) -> list[Tensor]:
        """Gradients ``[out, in]`` of each expert's layers, from ``[experts, out of all, in]``."""
        each = grads.unbind()
        if len(self.sizes) == 1:
            return list(each)
        return [own for grad in each for own in grad.split_with_sizes(self.sizes)]


def _factors(weight: Tensor, bias: Tensor | None, block: Block) -> tuple[Factor, Factor]:
    """What rows are multiplied with forward, and gradients back."""
    first, count = block.key, block.count
    if count == 1:
        own, added = weight[first], None if bias is None else bias[first]
    else:
        own = weight[first : first + count]
        added = None if bias is None else bias[first : first + count, None]
    return (own.mT, added), (own, None)


class _GroupedLinear(GroupedFunction):
    """Of grouped rows. Every product is written into its slice of the result.

    ``used`` are inputs for their gradients only; ``linears``, with all experts, holds their
    numbers. Backward reads them anew: in between they may be in no memory of this process.

    ``p`` is the route's weights by run; for a ``call`` whose gradients are pending, it is the
    handle, and ``used`` are the weights that get theirs at once, if any.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        p: Tensor,
        linears: Linears,
        route: LayerRoute,
        call: int | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.linears, ctx.route, ctx.call = linears, route, call
        ctx.save_for_backward(x)
        return linears.outputs(x, route)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        linears, route, call = ctx.linears, ctx.route, ctx.call
        for_x, _, _, _, _, *for_used = ctx.needs_input_grad
        grad_y = grad_y.contiguous()
        grad_x = linears.input_gradients(grad_y, route) if for_x else None
        grad_p: Tensor | None = None
        grads: list[Any] = []
        if call is None:
            pending = Pending(linears.kinds, route)
            pending.wait(0, linears, x, grad_y)
            grad_p, grads = pending.work_out(for_used)
        elif for_used:
            pending = route.deferred.pending
            grads = pending.weight_gradients(call, linears, x, grad_y, for_used)
        else:
            route.deferred.pending.wait(call, linears, x, grad_y)
        return grad_x, grad_p, None, None, None, *grads
