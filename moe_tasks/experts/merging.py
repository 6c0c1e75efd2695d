"""A task's own parameters out of the experts': merged by its route, or those it selected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.block import block_of
from moe_tasks.experts.products import inner
from moe_tasks.routing.plan import LayerRoute


def merge(weights: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``sum_e weights[t, e] * parameters[e]``: ``[T, m]`` and m of ``[...]`` to ``[T, ...]``.

    Added up expert by expert, so that a task's result does not depend on the other tasks of the
    batch in the last bit, as it would in a matrix product.
    """
    return _MergeParameters.apply(weights, *parameters)  # type: ignore[return-value]


class _MergeParameters(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(weights, *parameters)
        columns = weights.view(*weights.shape, *(1,) * parameters[0].dim()).unbind(1)
        total = columns[0] * parameters[0]
        for column, parameter in zip(columns[1:], parameters[1:], strict=True):
            total.addcmul_(column, parameter)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weights, *parameters = ctx.saved_tensors
        for_weights, *for_parameters = ctx.needs_input_grad
        grad = grad.contiguous()
        grad_weights = inner(grad, block_of(parameters)).to(weights.dtype) if for_weights else None
        grads: list[Any] = [None] * len(parameters)
        if any(for_parameters):
            totals = (weights.mT.to(grad.dtype) @ grad.flatten(1)).view(-1, *grad.shape[1:])
            grads = [t if f else None for t, f in zip(totals, for_parameters, strict=True)]
        return grad_weights, *grads


class SelectParameters(torch.autograd.Function):
    """Per task, the parameter of the expert it selected: one-hot ``[T, m]``, whose experts the
    host knows, to ``[T, ...]``.

    Backward is that of merging, except that experts nobody selected get no gradient.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, weights: Tensor, route: LayerRoute, *parameters: Tensor
    ) -> Tensor:
        ctx.route, ctx.experts = route, route.keys
        ctx.save_for_backward(weights, *parameters)
        return torch.stack([parameters[expert].detach() for expert in ctx.experts])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weights, *parameters = ctx.saved_tensors
        grad_weights = None
        if ctx.needs_input_grad[0]:
            every = ctx.route.compared(parameters[:1], block_of(parameters))
            grad_weights = inner(grad.contiguous(), every).to(weights.dtype)
        grads: list[Tensor | None] = [None] * len(parameters)
        for expert in set(ctx.experts):
            if ctx.needs_input_grad[2 + expert]:
                tasks = [t for t, selected in enumerate(ctx.experts) if selected == expert]
                grads[expert] = grad[tasks[0]] if len(tasks) == 1 else grad[tasks].sum(0)
        return grad_weights, None, *grads
