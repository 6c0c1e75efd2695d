"""A linear layer whose rows use different experts, with the ``merge_st`` router gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tasks.routing.plan import LayerRoute


def grouped_linear(
    x: Tensor, route: LayerRoute, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Tensor:
    """``x [B, ..., in] -> [B, ..., out]``, each row through the expert its task selected.

    The gradient with respect to the route is that of passing straight through parameter merging:
    ``dL/dp[t, e] = <dL/dW_t, W_e> + <dL/db_t, b_e>``, ``dL/dW_t`` summed over task t's rows.
    Experts that no row uses get no gradient at all (``None``).
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _GroupedLinear.apply(x, route.weights, route, len(weights), *weights, *biases)  # type: ignore[return-value]


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, p: Tensor, route: LayerRoute, m: int, *parameters: Tensor | None
    ) -> Tensor:
        weights, biases = parameters[:m], parameters[m:]
        ctx.route, ctx.m = route, m
        ctx.save_for_backward(x, *parameters)
        x = route.gather(x)
        parts = [
            F.linear(x[s.start : s.stop], _as(weights[s.key], x), _as(biases[s.key], x))
            for s in route.segments
        ]
        return route.scatter(parts[0] if len(parts) == 1 else torch.cat(parts))

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        route, m = ctx.route, ctx.m
        weights, biases = parameters[:m], parameters[m:]
        grad_y = route.gather(grad_y)
        grad_x = grad_p = None
        if ctx.needs_input_grad[0]:
            grad_x = route.scatter(
                torch.cat(
                    [grad_y[s.start : s.stop] @ _as(weights[s.key], grad_y) for s in route.segments]
                )
            )
        grads: list[Tensor | None] = [None] * (2 * m)
        if ctx.needs_input_grad[1] or any(ctx.needs_input_grad[4:]):
            x = route.gather(x)
            runs = route.task_segments if ctx.needs_input_grad[1] else route.segments
            run_grads = _weight_grads(x, grad_y, runs)  # [runs, out, in], [runs, out]
            if ctx.needs_input_grad[1]:
                grad_p = _route_grad(route, run_grads, weights, biases)
            if any(ctx.needs_input_grad[4:]):
                grads = _expert_grads(route, runs, run_grads, weights, biases)
        return grad_x, grad_p, None, None, *grads


def _as(parameter: Any, like: Tensor) -> Any:
    return None if parameter is None else parameter.to(like.dtype)


def _weight_grads(x: Tensor, grad_y: Tensor, runs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Weight and bias gradients of each run of rows, ``[runs, out, in]`` and ``[runs, out]``."""
    lengths = {run.stop - run.start for run in runs}
    if len(lengths) == 1:  # equal runs are one batched product
        x = x.reshape(len(runs), -1, x.shape[-1])
        grad_y = grad_y.reshape(len(runs), -1, grad_y.shape[-1])
        return grad_y.mT @ x, grad_y.sum(1)
    pairs = [
        (grad_y[r.start : r.stop].flatten(0, -2), x[r.start : r.stop].flatten(0, -2)) for r in runs
    ]
    return torch.stack([g.mT @ a for g, a in pairs]), torch.stack([g.sum(0) for g, _ in pairs])


def _route_grad(
    route: LayerRoute,
    run_grads: tuple[Tensor, Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    grad_w, grad_b = (g.to(route.weights.dtype) for g in run_grads)
    columns = []
    for weight, bias in zip(weights, biases, strict=True):
        column = grad_w.flatten(1) @ weight.detach().flatten().to(grad_w.dtype)
        if bias is not None:
            column = column + grad_b @ bias.detach().to(grad_b.dtype)
        columns.append(column)
    grad_p = torch.zeros_like(route.weights)
    tasks = torch.tensor([s.key for s in route.task_segments], device=grad_p.device)
    return grad_p.index_copy(0, tasks, torch.stack(columns, -1))


def _expert_grads(
    route: LayerRoute,
    runs: Sequence[Any],
    run_grads: tuple[Tensor, Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> list[Tensor | None]:
    m = len(weights)
    grads: list[Tensor | None] = [None] * (2 * m)
    for segment in route.segments:
        # Runs refine segments and follow the same order, so an expert's runs are neighbours.
        inside = [i for i, r in enumerate(runs) if segment.start <= r.start < segment.stop]
        span = slice(inside[0], inside[-1] + 1)
        weight, bias = weights[segment.key], biases[segment.key]
        if weight.requires_grad:
            grads[segment.key] = run_grads[0][span].sum(0).to(weight.dtype)
        if bias is not None and bias.requires_grad:
            grads[m + segment.key] = run_grads[1][span].sum(0).to(bias.dtype)
    return grads
