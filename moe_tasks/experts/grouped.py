"""Linear layers and norms whose rows use different experts, with the ``merge_st`` router gradient.

The gradient with respect to the route is that of passing straight through parameter merging:
``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, where ``dL/dW_t`` is summed over task t's rows.
Experts that no row uses get no gradient at all (``None``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.experts.block import block_of
from moe_tasks.routing.plan import Block, LayerRoute

# Numbers of a parameter that are compared at a time: experts' and tasks' pieces stay in cache.
_PIECE = 4096


def grouped_linear(
    x: Tensor, route: LayerRoute, weights: Sequence[Tensor], biases: Sequence[Tensor] | None
) -> Tensor:
    """``x [B, ..., in] -> [B, ..., out]``, each row through the expert its task selected."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    weight, bias = block_of(weights), None if biases is None else block_of(biases)
    used = [segment.key for segment in route.segments]
    parameters = [p[expert] for p in (weights, biases or ()) for expert in used if p]
    with torch.autocast(device, enabled=False):
        x = route.gather(x)
        if not torch.is_grad_enabled():
            return route.scatter(_products(x, route.blocks, weight.mT, bias))
        y = _GroupedLinear.apply(x, route.weights, route, weight, bias, *parameters)
        return route.scatter(y)  # type: ignore[arg-type]


class _GroupedLinear(torch.autograd.Function):
    """Of grouped rows. Every product is written into its slice of the result."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        p: Tensor,
        route: LayerRoute,
        weight: Tensor,
        bias: Tensor | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.route, ctx.weight, ctx.bias = route, weight, bias
        ctx.save_for_backward(x, *used)
        return _products(x, route.blocks, weight.mT, bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, *used = ctx.saved_tensors
        route: LayerRoute = ctx.route
        for_x, for_p, *_ = ctx.needs_input_grad
        for_experts = any(ctx.needs_input_grad[5:])
        grad_y = grad_y.contiguous()
        grad_x = _products(grad_y, route.blocks, ctx.weight, None) if for_x else None
        grad_p, grads = None, [None] * len(used)
        if for_p or for_experts:
            blocks = route.task_blocks if for_p else route.blocks
            of_bias = ctx.bias is not None
            grad_w, grad_b = _run_grads(x.contiguous(), grad_y, blocks, of_bias)
            if for_p:
                grad_p = _route_grad(route, (grad_w, ctx.weight), (grad_b, ctx.bias))
            if for_experts:
                runs = _runs_inside(route) if for_p else [slice(i, i + 1) for i in range(len(grad_w))]
                kinds = [grad_w] if grad_b is None else [grad_w, grad_b]
                totals = [total for kind in kinds for total in _sums(kind, runs)]
                grads = [
                    total.to(parameter.dtype) if parameter.requires_grad else None
                    for total, parameter in zip(totals, used, strict=True)
                ]
        return grad_x, grad_p, None, None, None, *grads


def _products(x: Tensor, blocks: Sequence[Block], matrices: Tensor, bias: Tensor | None) -> Tensor:
    """``x [B, ..., in]`` times each block's of ``matrices [m, in, out]``, plus ``bias [m, out]``."""
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], matrices.shape[-1])
    for block in blocks:
        experts = slice(block.key, block.key + block.count)
        rows, out = _rows(x, block), _rows(y, block)
        matrix = matrices[experts].to(x.dtype)
        if block.count == 1:  # an ordinary product is faster than a batch of one
            if bias is None:
                torch.mm(rows[0], matrix[0], out=out[0])
            else:
                torch.addmm(bias[block.key].to(x.dtype), rows[0], matrix[0], out=out[0])
        elif bias is None:
            torch.bmm(rows, matrix, out=out)
        else:
            torch.baddbmm(bias[experts, None].to(x.dtype), rows, matrix, out=out)
    return y


def _rows(x: Tensor, block: Block) -> Tensor:
    """A block's rows of a contiguous ``[B, ..., D]``, ``[count, rows * ..., D]``, as a view."""
    return x[block.start : block.stop].view(block.count, -1, x.shape[-1])


def _run_grads(
    x: Tensor, grad_y: Tensor, blocks: Sequence[Block], of_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias gradients of each run of rows, ``[runs, out, in]`` and ``[runs, out]``."""
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


def _route_grad(route: LayerRoute, *pairs: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """``[T, m]`` from the runs' gradients and the experts' values of each parameter."""
    total = sum(inner(grads, block) for grads, block in pairs if grads is not None)  # type: ignore[arg-type]
    return _by_task(route, total)  # type: ignore[arg-type]


def _by_task(route: LayerRoute, by_run: Tensor) -> Tensor:
    """``[T, m]`` from ``[runs, m]``; a task has one run, or none."""
    tasks = [segment.key for segment in route.task_segments]
    by_run = by_run.to(route.weights.dtype)
    if tasks == list(range(len(route.keys))):
        return by_run
    places = torch.tensor(tasks).to(by_run.device)
    return torch.zeros_like(route.weights).index_copy(0, places, by_run)


def inner(rows: Tensor, block: Tensor) -> Tensor:
    """Inner products ``[R, m]`` of ``rows [R, ...]`` with m parameters ``[m, ...]``."""
    size = rows[0].numel()
    pieces = _pieces(rows.shape[1], size)
    block = block.to(rows.dtype).reshape(len(block), pieces, -1)
    rows = rows.reshape(len(rows), pieces, -1)
    return torch.bmm(rows.transpose(0, 1), block.permute(1, 2, 0)).sum(0)


@lru_cache
def _pieces(length: int, size: int) -> int:
    """Into how many equal pieces a parameter is cut along its first dimension."""
    fitting = [n for n in range(1, length + 1) if length % n == 0 and size // n >= _PIECE]
    return max(fitting, default=1)


def _runs_inside(route: LayerRoute) -> list[slice]:
    """Of each segment, its runs of one task."""
    stops = [segment.stop for segment in route.task_segments]
    found, first = [], 0
    for segment in route.segments:
        last = stops.index(segment.stop) + 1
        found.append(slice(first, last))
        first = last
    return found


def _sums(grads: Tensor, runs: Sequence[slice]) -> list[Tensor]:
    """Sums over runs of ``grads [runs, ...]``: parts of it only if it is all used so."""
    if len(runs) == len(grads):
        return list(grads.unbind())
    return [grads[run].sum(0) for run in runs]


def grouped_scale(
    y: Tensor, route: LayerRoute, weights: Sequence[Tensor], biases: Sequence[Tensor] | None
) -> Tensor:
    """``y [B, ..., D] * weight (+ bias)``, each row with those of the expert its task selected."""
    weight, bias = block_of(weights), None if biases is None else block_of(biases)
    used = [segment.key for segment in route.segments]
    parameters = [p[expert] for p in (weights, biases or ()) for expert in used if p]
    if not torch.is_grad_enabled():
        return _scaled(y, route, weight, bias)
    return _GroupedScale.apply(y, route.weights, route, weight, bias, *parameters)  # type: ignore[return-value]


class _GroupedScale(torch.autograd.Function):
    """Of rows in any order."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        y: Tensor,
        p: Tensor,
        route: LayerRoute,
        weight: Tensor,
        bias: Tensor | None,
        *used: Tensor,
    ) -> Tensor:
        ctx.route, ctx.weight, ctx.bias = route, weight, bias
        ctx.save_for_backward(y, *used)
        return _scaled(y, route, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        y, *used = ctx.saved_tensors
        route: LayerRoute = ctx.route
        for_y, for_p, *_ = ctx.needs_input_grad
        grad_y = grad * _of_rows(ctx.weight, route, grad) if for_y else None
        sums = [_row_sums(grad * y)]
        if ctx.bias is not None:
            sums.append(_row_sums(grad))  # [B, D] each
        grad_p = None
        if for_p:
            blocks = (ctx.weight, ctx.bias)[: len(sums)]
            by_row = sum(kind @ block.to(kind.dtype).mT for kind, block in zip(sums, blocks))  # type: ignore[arg-type]
            by_row = by_row.to(route.weights.dtype)  # type: ignore[union-attr]
            grad_p = torch.zeros_like(route.weights).index_add(0, route.row_task, by_row)
        m = len(ctx.weight)
        totals = [kind.new_zeros(m, kind.shape[-1]).index_add(0, route.row_key, kind) for kind in sums]
        keys = [segment.key for segment in route.segments]
        found = [total[key] for total in totals for key in keys]
        grads = [
            total.to(parameter.dtype) if parameter.requires_grad else None
            for total, parameter in zip(found, used, strict=True)
        ]
        return grad_y, grad_p, None, None, None, *grads


def _scaled(y: Tensor, route: LayerRoute, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return y * _of_rows(weight, route, y)
    return torch.addcmul(_of_rows(bias, route, y), y, _of_rows(weight, route, y))


def _of_rows(block: Tensor, route: LayerRoute, like: Tensor) -> Tensor:
    """Each row's parameter ``[B, 1, ..., D]`` out of ``block [m, D]``."""
    rows = block.index_select(0, route.row_key).to(like.dtype)
    return rows.view(len(rows), *(1,) * (like.dim() - 2), -1)


def _row_sums(x: Tensor) -> Tensor:
    """``[B, ..., D]`` to ``[B, D]``."""
    return x.flatten(1, -2).sum(1) if x.dim() > 2 else x
