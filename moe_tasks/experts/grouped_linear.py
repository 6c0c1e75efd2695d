"""A linear layer whose rows use different experts, with the ``merge_st`` router gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moe_tasks.routing.plan import LayerRoute, Segment

# Numbers of a weight that are compared at a time: experts' and tasks' pieces then stay in cache.
_PIECE = 65536


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
    """Every product is written into its slice of the result: nothing is copied together."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, p: Tensor, route: LayerRoute, m: int, *parameters: Tensor | None
    ) -> Tensor:
        weights, biases = parameters[:m], parameters[m:]
        ctx.route, ctx.m = route, m
        ctx.save_for_backward(x, *parameters)
        x = route.gather(x).contiguous()
        y = x.new_empty(*x.shape[:-1], weights[0].shape[0])  # type: ignore[union-attr]
        for segment in route.segments:
            rows, out = _rows(x, segment), _rows(y, segment)
            weight, bias = _as(weights[segment.key], x), _as(biases[segment.key], x)
            if bias is None:
                torch.mm(rows, weight.mT, out=out)
            else:
                torch.addmm(bias, rows, weight.mT, out=out)
        return route.scatter(y)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        route, m = ctx.route, ctx.m
        weights, biases = parameters[:m], parameters[m:]
        grad_y = route.gather(grad_y).contiguous()
        grad_x = grad_p = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_y.new_empty(x.shape)
            for segment in route.segments:
                weight = _as(weights[segment.key], grad_y)
                torch.mm(_rows(grad_y, segment), weight, out=_rows(grad_x, segment))
            grad_x = route.scatter(grad_x)
        grads: list[Tensor | None] = [None] * (2 * m)
        if ctx.needs_input_grad[1] or any(ctx.needs_input_grad[4:]):
            x = route.gather(x).contiguous()
            runs = route.task_segments if ctx.needs_input_grad[1] else route.segments
            run_grads = _weight_grads(x, grad_y, runs)  # [runs, out, in], [runs, out]
            if ctx.needs_input_grad[1]:
                grad_p = _route_grad(route, run_grads, weights, biases)
            if any(ctx.needs_input_grad[4:]):
                grads = _expert_grads(route, runs, run_grads, weights, biases)
        return grad_x, grad_p, None, None, *grads


def _rows(x: Tensor, segment: Segment) -> Tensor:
    """A segment's rows ``[rows * ..., D]`` of a contiguous ``[B, ..., D]``, as a view."""
    return x[segment.start : segment.stop].view(-1, x.shape[-1])


def _as(parameter: Any, like: Tensor) -> Any:
    return None if parameter is None else parameter.to(like.dtype)


def _weight_grads(x: Tensor, grad_y: Tensor, runs: Sequence[Segment]) -> tuple[Tensor, Tensor]:
    """Weight and bias gradients of each run of rows, ``[runs, out, in]`` and ``[runs, out]``."""
    if len({run.stop - run.start for run in runs}) == 1:  # equal runs are one batched product
        x = x.view(len(runs), -1, x.shape[-1])
        grad_y = grad_y.view(len(runs), -1, grad_y.shape[-1])
        return torch.bmm(grad_y.mT, x), grad_y.sum(1)
    grad_w = x.new_empty(len(runs), grad_y.shape[-1], x.shape[-1])
    grad_b = x.new_empty(len(runs), grad_y.shape[-1])
    for index, run in enumerate(runs):
        rows = _rows(grad_y, run)
        torch.mm(rows.mT, _rows(x, run), out=grad_w[index])
        torch.sum(rows, 0, out=grad_b[index])
    return grad_w, grad_b


def _route_grad(
    route: LayerRoute,
    run_grads: tuple[Tensor, Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> Tensor:
    grad_w, grad_b = run_grads
    total = _inner(grad_w.flatten(1), [weight.detach().flatten() for weight in weights])
    if biases[0] is not None:
        total = total + _inner(grad_b, [bias.detach() for bias in biases if bias is not None])
    tasks = torch.tensor([s.key for s in route.task_segments], device=total.device)
    total = total.to(route.weights.dtype)
    return torch.zeros_like(route.weights).index_copy(0, tasks, total)


def _inner(rows: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """Inner products ``[R, m]`` of ``rows [R, P]`` with m experts' ``[P]``."""
    total = rows.new_zeros(len(rows), len(experts))
    step = _PIECE if rows.device.type == "cpu" else rows.shape[1]
    for start in range(0, rows.shape[1], step):
        piece = slice(start, start + step)
        stacked = torch.stack([expert[piece] for expert in experts]).to(rows.dtype)
        total.addmm_(rows[:, piece], stacked.mT)
    return total


def _expert_grads(
    route: LayerRoute,
    runs: Sequence[Segment],
    run_grads: tuple[Tensor, Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
) -> list[Tensor | None]:
    m = len(weights)
    grads: list[Tensor | None] = [None] * (2 * m)
    inside: dict[int, list[int]] = {}  # expert -> its runs, which refine its segments
    stops = [(segment.stop, segment.key) for segment in route.segments]
    for index, run in enumerate(runs):
        expert = next(key for stop, key in stops if run.start < stop)
        inside.setdefault(expert, []).append(index)
    for expert, own in inside.items():
        for place, parameter, grad in ((0, weights, run_grads[0]), (m, biases, run_grads[1])):
            one = parameter[expert]
            if one is not None and one.requires_grad:
                total = grad[own[0]]
                for index in own[1:]:
                    total = total + grad[index]
                grads[place + expert] = total.to(one.dtype)
    return grads
