"""Norms whose rows use different experts, with the ``merge_st`` router gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.block import Versions
from moe_tasks.experts.grouped import GroupedFunction, used_parameters, wanted_only
from moe_tasks.experts.products import inner, of_segments
from moe_tasks.routing.plan import LayerRoute

# Numbers of a task from which on a kernel of its own is faster.
_MANY = 2**14


def grouped_layer_norm(
    x: Tensor, route: LayerRoute, weights: Versions, biases: Versions, eps: float
) -> Tensor:
    """LayerNorm of grouped rows ``x [B, ..., D]``, each with the expert its task selected.

    Backward runs the library's kernel once per task, which on a CPU takes less than passes over all
    rows unless tasks have few; on a GPU the passes of :func:`grouped_scale` are fewer kernels.
    """
    used = used_parameters(route, weights, biases)
    return _GroupedLayerNorm.apply(
        x.contiguous(), route.run_weights, route, weights, biases, eps, *used
    )


class _GroupedLayerNorm(GroupedFunction):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        p: Tensor,
        route: LayerRoute,
        weights: Versions,
        biases: Versions,
        eps: float,
        *used: Tensor,
    ) -> Tensor:
        y, mean, deviation = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.route, ctx.weights, ctx.biases = route, weights, biases
        ctx.save_for_backward(x, mean, deviation)
        rows = _rows_of(route, _blocks((weights, biases), route), x)
        return torch.addcmul(rows[1], y, rows[0], out=y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        route, weights, biases = ctx.route, ctx.weights, ctx.biases
        for_x, for_p, _, _, _, _, *for_used = ctx.needs_input_grad
        weight, bias = weights.block(route.call), biases.block(route.call)
        x, mean, deviation = ctx.saved_tensors
        few = grad.numel() < _MANY * len(route.task_segments)
        gradients = _all_at_once if few else _run_by_run
        grad_x, of_weight, of_bias = gradients(route, weight, grad.contiguous(), x, mean, deviation)
        grad_p = None
        if for_p:
            grad_p = inner(of_weight, route.compared(weights.first, weight))
            grad_p += inner(of_bias, route.compared(biases.first, bias))
            grad_p = grad_p.to(route.weights.dtype)
        grads = of_segments(of_weight, route, weight.dtype)
        grads += of_segments(of_bias, route, weight.dtype)
        grad_x = grad_x if for_x else None
        return grad_x, grad_p, None, None, None, None, *wanted_only(grads, for_used)


def _run_by_run(
    route: LayerRoute, weight: Tensor, grad: Tensor, x: Tensor, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of grouped inputs ``[B, ..., D]``, and of weight and bias by run ``[runs, D]``."""
    sizes = [run.rows for run in route.task_segments]
    own = [weight[route.keys[run.key]] for run in route.task_segments]
    parts = zip(own, *(t.split(sizes) for t in (grad, x, mean, deviation)), strict=True)
    found = [
        torch.ops.aten.native_layer_norm_backward.default(
            grad, x, x.shape[-1:], mean, deviation, own, own, [True, True, True]
        )  # of the bias, only the shape counts
        for own, grad, x, mean, deviation in parts
    ]
    grad_x, of_weight, of_bias = zip(*found, strict=True)
    return torch.cat(grad_x), torch.stack(of_weight), torch.stack(of_bias)


def _all_at_once(
    route: LayerRoute, weight: Tensor, grad: Tensor, x: Tensor, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same."""
    grad_normalised = grad * _rows_of(route, weight[None], x)[0]
    grad_x, _, _ = torch.ops.aten.native_layer_norm_backward.default(
        grad_normalised, x, x.shape[-1:], mean, deviation, None, None, [True, False, False]
    )
    normalised = torch.sub(x, mean, out=grad_normalised).mul_(deviation)
    sums = torch.stack([_row_sums(normalised.mul_(grad)), _row_sums(grad)])  # [2, B, D]
    of_weight, of_bias = (route.rows_of_runs.to(sums.dtype) @ sums).unbind()
    return grad_x, of_weight, of_bias


def grouped_scale(
    y: Tensor, route: LayerRoute, weights: Versions, biases: Versions | None
) -> Tensor:
    """``y [B, ..., D] * weight (+ bias)``, each row with those of the expert its task selected."""
    kinds = (weights,) if biases is None else (weights, biases)
    if not torch.is_grad_enabled():
        rows = route.prepared.get((weights, y.dim()))
        if rows is None:
            rows = _rows_of(route, _blocks(kinds, route), y)
            if route.call is not None:
                route.prepared[weights, y.dim()] = rows
        return _scaled(y, rows)
    blocks = _blocks(kinds, route)
    rows = _rows_of(route, blocks, y)
    used, firsts = used_parameters(route, weights, biases), [kind.first for kind in kinds]
    return _GroupedScale.apply(y, route.weights, route, blocks, rows, firsts, *used)  # type: ignore[return-value]


def _blocks(kinds: Sequence[Versions], route: LayerRoute) -> Tensor:
    """``[1 or 2, m, D]``"""
    return torch.stack([kind.block(route.call) for kind in kinds])


def _rows_of(route: LayerRoute, blocks: Tensor, y: Tensor) -> Tensor:
    """``blocks [1 or 2, m, D]`` to ``[1 or 2, B, 1, ..., D]``, as many dimensions as ``y`` has."""
    rows = blocks.index_select(1, route.row_key)
    return rows.view(*rows.shape[:2], *(1,) * (y.dim() - 2), -1) if y.dim() > 2 else rows


class _GroupedScale(GroupedFunction):
    """Of rows in any order, each with its ``rows [1 or 2, B, 1, ..., D]`` out of ``blocks``."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        y: Tensor,
        p: Tensor,
        route: LayerRoute,
        blocks: Tensor,
        rows: Tensor,
        firsts: Sequence[Tensor],
        *used: Tensor,
    ) -> Tensor:
        ctx.route, ctx.blocks, ctx.rows, ctx.firsts = route, blocks, rows, firsts
        ctx.save_for_backward(y)
        return _scaled(y, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        route, blocks = ctx.route, ctx.blocks
        for_y, for_p, _, _, _, _, *for_used = ctx.needs_input_grad
        grad_y = grad * ctx.rows[0] if for_y else None
        kinds = [_row_sums(grad * y), _row_sums(grad)][: blocks.shape[0]]
        sums = torch.stack(kinds).to(blocks.dtype)  # [1 or 2, B, D]
        grad_p = None
        if for_p:
            pairs = zip(ctx.firsts, blocks.unbind(), strict=True)
            every = (
                blocks
                if route.everywhere is None
                else torch.stack([route.compared(*pair) for pair in pairs])
            )
            by_row = torch.bmm(sums, every.mT).sum(0).to(route.weights.dtype)  # [B, m]
            grad_p = route.rows_of_tasks.to(by_row.dtype) @ by_row
        totals = route.rows_of_segments.to(sums.dtype) @ sums  # [1 or 2, segments, D]
        grads = wanted_only(totals.flatten(0, 1).unbind(), for_used)
        return grad_y, grad_p, None, None, None, None, *grads


def _scaled(y: Tensor, rows: Tensor) -> Tensor:
    rows = rows.to(y.dtype)
    return y * rows[0] if rows.shape[0] == 1 else torch.addcmul(rows[1], y, rows[0])


def _row_sums(x: Tensor) -> Tensor:
    """``[B, ..., D]`` to ``[B, D]``."""
    return x.flatten(1, -2).sum(1) if x.dim() > 2 else x
