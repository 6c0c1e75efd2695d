"""Linear layers whose rows use different experts, with the ``merge_st`` router gradient.

The gradient with respect to the route is that of passing straight through parameter merging:
``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, where ``dL/dW_t`` is summed over task t's rows.
Experts that no row uses get no gradient at all (``None``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.routing.plan import Block, LayerRoute

# Numbers of a parameter that are compared at a time: experts' and tasks' pieces stay in cache.
_PIECE = 4096
# Up to so many rows of a task, a CPU multiplies in half the time if the weights come first.
_FEW = 4


class GroupedFunction(torch.autograd.Function):
    """With inputs for every expert in use, called without torch's look at each."""

    @classmethod
    def apply(cls, *args: Any) -> Any:  # type: ignore[override]
        # For functorch, which has no use for functions without ``setup_context`` anyway.
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


def grouped_linear(
    x: Tensor, route: LayerRoute, weights: Versions, biases: Versions | None
) -> Tensor:
    """``x [B, ..., in] -> [B, ..., out]``, each row through the expert its task selected."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _linear(x, route, weights, biases)
    x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _linear(x, route, weights, biases)


def _linear(x: Tensor, route: LayerRoute, weights: Versions, biases: Versions | None) -> Tensor:
    x = route.gather(x)
    if not torch.is_grad_enabled():
        bias = None if biases is None else biases.block
        return route.scatter(_products(x, route.blocks, weights.block.mT, bias))
    used = used_parameters(route, weights, biases)
    return route.scatter(_GroupedLinear.apply(x, route.weights, route, weights, biases, *used))


def used_parameters(route: LayerRoute, weights: Versions, biases: Versions | None) -> list[Tensor]:
    """Parameters of the experts in use, in the order of the segments, weights first."""
    keys = [segment.key for segment in route.segments]
    used = [weights.parameters[key] for key in keys]
    return used if biases is None else used + [biases.parameters[key] for key in keys]


class _GroupedLinear(GroupedFunction):
    """Of grouped rows. Every product is written into its slice of the result.

    ``used`` are inputs for their gradients only; ``weights`` and ``biases``, of all experts, hold
    their numbers. Backward reads them anew: in between they may be in no memory of this process.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        p: Tensor,
        route: LayerRoute,
        weights: Versions,
        biases: Versions | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.route, ctx.weights, ctx.biases = route, weights, biases
        ctx.save_for_backward(x)
        bias = None if biases is None else biases.block
        return _products(x, route.blocks, weights.block.mT, bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        route, weights, biases = ctx.route, ctx.weights, ctx.biases
        weight, bias = weights.block, None if biases is None else biases.block
        for_x, for_p, _, _, _, *for_used = ctx.needs_input_grad
        grad_y = grad_y.contiguous()
        grad_x = _products(grad_y, route.blocks, weight, None) if for_x else None
        grad_p, grads = None, [None] * len(for_used)
        if for_p or any(for_used):
            blocks = route.task_blocks if for_p else route.blocks
            grad_w, grad_b = _run_grads(x.contiguous(), grad_y, blocks, bias is not None)
            if for_p:
                grad_p = inner(grad_w, route.compared(weights.parameters[0], weight))
                if grad_b is not None and biases is not None:
                    grad_p += inner(grad_b, route.compared(biases.parameters[0], bias))
                grad_p = by_task(route, grad_p)
            if any(for_used):
                runs = route.runs_of_segments if for_p else None
                grads = of_segments(grad_w, runs, weight.dtype)
                if grad_b is not None:
                    grads += of_segments(grad_b, runs, weight.dtype)
        return grad_x, grad_p, None, None, None, *wanted_only(grads, for_used)


def wanted_only(grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    if all(wanted):
        return list(grads)
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]


def _products(x: Tensor, blocks: Sequence[Block], matrices: Tensor, bias: Tensor | None) -> Tensor:
    """``x [B, ..., in]`` times each block's ``matrices [m, in, out]``, plus ``bias [m, out]``."""
    x = x.contiguous()
    shape = (*x.shape[:-1], matrices.shape[-1])
    if matrices.dtype != x.dtype:
        matrices, bias = matrices.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if len(blocks) == 1:
        return _product(_rows(x, blocks[0]), blocks[0], matrices, bias).view(shape)
    y = x.new_empty(shape)
    for block in blocks:
        _product(_rows(x, block), block, matrices, bias, out=_rows(y, block))
    return y


def _product(
    rows: Tensor, block: Block, matrices: Tensor, bias: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """``rows [count, N, in]`` to ``[count, N, out]``."""
    if rows.shape[1] <= _FEW and rows.device.type == "cpu" and matrices.mT.is_contiguous():
        return _product_of_few(rows, block, matrices.mT, bias, out)
    if block.count == 1:  # an ordinary product is faster than a batch of one
        out = None if out is None else out[0]
        if bias is None:
            return torch.mm(rows[0], matrices[block.key], out=out)
        return torch.addmm(bias[block.key], rows[0], matrices[block.key], out=out)
    if block.count < matrices.shape[0]:
        experts = slice(block.key, block.key + block.count)
        matrices, bias = matrices[experts], None if bias is None else bias[experts]
    if bias is None:
        return torch.bmm(rows, matrices, out=out)
    return torch.baddbmm(bias[:, None], rows, matrices, out=out)


def _product_of_few(
    rows: Tensor, block: Block, weights: Tensor, bias: Tensor | None, out: Tensor | None
) -> Tensor:
    """The same with ``weights [m, out, in]`` first, as when tokens are decoded one by one."""
    experts = slice(block.key, block.key + block.count)
    if bias is None:
        y = torch.bmm(weights[experts], rows.mT).mT
    else:
        y = torch.baddbmm(bias[experts, :, None], weights[experts], rows.mT).mT
    return y.contiguous() if out is None else out.copy_(y)


def _rows(x: Tensor, block: Block) -> Tensor:
    """A block's rows of a contiguous ``[B, ..., D]``, ``[count, rows * ..., D]``, as a view."""
    if block.stop - block.start < x.shape[0]:
        x = x[block.start : block.stop]
    return x.view(block.count, -1, x.shape[-1])


def _run_grads(
    x: Tensor, grad_y: Tensor, blocks: Sequence[Block], of_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias gradients of each run of rows, ``[runs, out, in]`` and ``[runs, out]``."""
    if len(blocks) == 1:
        rows = _rows(grad_y, blocks[0])
        grad_w = torch.bmm(rows.mT, _rows(x, blocks[0]))
        return grad_w, rows.sum(1) if of_bias else None
    num_runs = sum(block.count for block in blocks)
    grad_w = x.new_empty(num_runs, grad_y.shape[-1], x.shape[-1])
    grad_b = x.new_empty(num_runs, grad_y.shape[-1]) if of_bias else None
    first = 0
    for block in blocks:
        runs = slice(first, first + block.count)
        rows = _rows(grad_y, block)
        torch.bmm(rows.mT, _rows(x, block), out=grad_w[runs])
        if grad_b is not None:
            torch.sum(rows, 1, out=grad_b[runs])
        first = runs.stop
    return grad_w, grad_b


def of_segments(grads: Tensor, runs: Sequence[slice] | None, dtype: torch.dtype) -> list[Any]:
    """Sums of ``grads [runs, ...]`` over each segment's runs (one, if ``None``)."""
    if grads.dtype != dtype:
        grads = grads.to(dtype)
    if runs is None or len(runs) == grads.shape[0]:
        return list(grads.unbind())
    sums = grads.new_empty(len(runs), *grads.shape[1:])  # next to each other, as ``joined`` likes
    for total, run in zip(sums.unbind(), runs, strict=True):
        first, *others = grads[run].unbind()
        if not others:
            total.copy_(first)
        for place, other in enumerate(others):  # less than torch's sum takes
            torch.add(total if place else first, other, out=total)
    return list(sums.unbind())


def by_task(route: LayerRoute, by_run: Tensor) -> Tensor:
    """``[T, m]`` from ``[runs, m]``; a task has one run, or none."""
    if by_run.dtype != route.weights.dtype:
        by_run = by_run.to(route.weights.dtype)
    if route.tasks_in_order:
        return by_run
    return torch.zeros_like(route.weights).index_copy_(0, route.run_tasks, by_run)


def inner(rows: Tensor, block: Tensor) -> Tensor:
    """Inner products ``[R, m]`` of ``rows [R, ...]`` with m parameters ``[m, ...]``."""
    _, length, *others = rows.shape
    pieces = _pieces(length, length * prod(others)) if others else 1
    if block.dtype != rows.dtype:
        block = block.to(rows.dtype)
    if pieces == 1:
        return torch.mm(rows.flatten(1), block.flatten(1).mT)
    block = block.reshape(block.shape[0], pieces, -1)
    rows = rows.reshape(rows.shape[0], pieces, -1)
    return torch.bmm(rows.transpose(0, 1), block.permute(1, 2, 0)).sum(0)


@lru_cache
def _pieces(length: int, size: int) -> int:
    """Into how many equal pieces a parameter is cut along its first dimension."""
    fitting = [n for n in range(1, length + 1) if length % n == 0 and size // n >= _PIECE]
    return max(fitting, default=1)
