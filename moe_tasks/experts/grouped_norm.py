"""Norms whose rows use different experts, with the ``merge_st`` router gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.experts.block import Versions
from moe_tasks.experts.grouped import GroupedFunction
from moe_tasks.experts.pending import Pending, used_parameters, wanted_only, with_experts
from moe_tasks.experts.products import run_grads, run_sums
from moe_tasks.routing.plan import LayerRoute


def grouped_layer_norm(
    x: Tensor, route: LayerRoute, versions: Versions, neutral: nn.LayerNorm
) -> Tensor:
    """LayerNorm of grouped rows ``x [B, ..., D]``, each with the expert its task selected.

    What is summed over a task's positions is a product, which on a CPU takes less than passes over
    all rows; on a GPU the passes of :func:`grouped_scale` are fewer kernels.

    Args:
        versions: of weight and bias.
        neutral: the norm with ones and zeros; torch's kernel takes twice as long without any.
    """
    later = route.deferred
    if later is None or versions not in later.pending:
        p, call, used = route.run_weights, None, used_parameters(route, versions)
    else:
        p, call, used = later.handle, later.pending.call(), []
    return _GroupedLayerNorm.apply(x.contiguous(), p, versions, route, call, neutral, *used)


class _GroupedLayerNorm(GroupedFunction):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        p: Tensor,
        versions: Versions,
        route: LayerRoute,
        call: int | None,
        neutral: nn.LayerNorm,
        *used: Tensor,
    ) -> Tensor:
        y, mean, deviation = torch.native_layer_norm(
            x, x.shape[-1:], neutral.weight, neutral.bias, neutral.eps
        )
        scale, shift = _rows_of(route, versions, x)
        ctx.versions, ctx.route, ctx.call = versions, route, call
        ctx.save_for_backward(x, mean, deviation, scale)
        return torch.addcmul(shift, y, scale, out=y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        versions, route, call = ctx.versions, ctx.route, ctx.call
        for_x, _, _, _, _, _, *for_used = ctx.needs_input_grad
        x, mean, deviation, scale = ctx.saved_tensors
        grad = grad.contiguous()
        of_normalised = grad * scale
        grad_x = None
        if for_x:
            grad_x, _, _ = torch.ops.aten.native_layer_norm_backward.default(
                of_normalised, x, x.shape[-1:], mean, deviation, None, None, [True, False, False]
            )
        pending = Pending((versions,), route) if call is None else route.deferred.pending
        if pending.learns(versions):
            centred = torch.sub(x, mean, out=of_normalised).mul_(grad)
            of_weight = run_grads(centred, deviation, route.task_blocks).squeeze(1)
            sums = torch.cat([of_weight, run_sums(grad, route.task_blocks)], 1)  # [runs, 2 D]
            pending.add_vectors(call or 0, versions, sums)
        grad_p, grads = pending.work_out(for_used) if call is None else (None, ())
        return grad_x, grad_p, None, None, None, None, *grads


def grouped_scale(y: Tensor, route: LayerRoute, versions: Versions) -> Tensor:
    """``y [B, ..., D] * weight (+ bias)``, each row with those of the expert its task selected.

    Args:
        versions: of the weight, or of weight and bias.
    """
    if not torch.is_grad_enabled():
        rows = route.prepared.get((versions, y.dim()))
        if rows is None:
            rows = _rows_of(route, versions, y)
            if route.call is not None:
                route.prepared[versions, y.dim()] = rows
        return _scaled(y, *rows)
    used = used_parameters(route, versions)
    return _GroupedScale.apply(y, route.weights, versions, route, *used)  # type: ignore[return-value]


def _rows_of(route: LayerRoute, versions: Versions, y: Tensor) -> tuple[Tensor, ...]:
    """Each row's weight (and bias) ``[B, 1, ..., D]``, of as many dimensions as ``y``."""
    rows = versions.block(route.call).index_select(0, route.row_key)
    return rows.view(rows.shape[0], -1, *(1,) * (y.dim() - 2), y.shape[-1]).unbind(1)


class _GroupedScale(GroupedFunction):
    """Of rows in any order."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, y: Tensor, p: Tensor, versions: Versions, route: LayerRoute, *used: Tensor
    ) -> Tensor:
        rows = _rows_of(route, versions, y)
        ctx.versions, ctx.route, ctx.scaled_alone = versions, route, len(rows) == 1
        ctx.save_for_backward(y, rows[0])
        return _scaled(y, *rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        versions, route = ctx.versions, ctx.route
        for_y, for_p, _, _, *for_used = ctx.needs_input_grad
        y, scale = ctx.saved_tensors
        grad_y = grad * scale if for_y else None
        sums = _row_sums(grad * y)
        if not ctx.scaled_alone:
            sums = torch.cat([sums, _row_sums(grad)], 1)
        sums = sums.to(scale.dtype)  # [B, D] or [B, 2 D]
        grad_p = None
        if for_p:
            by_row = with_experts(sums, (versions,), route)  # [B, m]
            grad_p = route.rows_of_tasks.to(by_row.dtype) @ by_row
        totals = (route.rows_of_segments.to(sums.dtype) @ sums).unbind()
        return grad_y, grad_p, None, None, *_of_each(totals, versions, for_used)


def _of_each(totals: Sequence[Tensor], versions: Versions, wanted: Sequence[bool]) -> list[Any]:
    """Gradients of the parameters in use, from those of each segment, one after the other."""
    count = len(versions.of(0))
    return wanted_only([part for total in totals for part in total.chunk(count)], wanted)


def _scaled(y: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    if shift is None:
        return y * scale.to(y.dtype)
    return torch.addcmul(shift.to(y.dtype), y, scale.to(y.dtype))


def _row_sums(x: Tensor) -> Tensor:
    """``[B, ..., D]`` to ``[B, D]``."""
    return x.flatten(1, -2).sum(1) if x.dim() > 2 else x
