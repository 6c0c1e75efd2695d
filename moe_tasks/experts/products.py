"""Products of grouped rows with the experts that their tasks selected, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from moe_tasks.routing.plan import Block, LayerRoute

# Numbers of a parameter that are compared at a time: experts' and tasks' pieces stay in cache.
_PIECE = 4096
# Up to so many rows of a task, a CPU multiplies in half the time if the weights come first.
_FEW = 4


def products(x: Tensor, blocks: Sequence[Block], matrices: Tensor, bias: Tensor | None) -> Tensor:
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


def run_grads(x: Tensor, grad_y: Tensor, blocks: Sequence[Block], of_bias: bool) -> list[Tensor]:
    """Weight (and bias) gradients of each run of rows, ``[runs, out, in]`` (``[runs, out]``)."""
    if len(blocks) == 1:
        rows = _rows(grad_y, blocks[0])
        grad_w = torch.bmm(rows.mT, _rows(x, blocks[0]))
        return [grad_w, rows.sum(1)] if of_bias else [grad_w]
    num_runs = sum(block.count for block in blocks)
    grads = [x.new_empty(num_runs, grad_y.shape[-1], x.shape[-1])]
    if of_bias:
        grads.append(x.new_empty(num_runs, grad_y.shape[-1]))
    first = 0
    for block in blocks:
        runs = slice(first, first + block.count)
        rows = _rows(grad_y, block)
        torch.bmm(rows.mT, _rows(x, block), out=grads[0][runs])
        if of_bias:
            torch.sum(rows, 1, out=grads[1][runs])
        first = runs.stop
    return grads


def of_segments(grads: Tensor, route: LayerRoute, dtype: torch.dtype) -> list[Any]:
    """Sums of ``grads [runs, ...]`` over the runs of each segment, or as they are, one for each."""
    if grads.dtype != dtype:
        grads = grads.to(dtype)
    if len(route.segments) == grads.shape[0]:
        return list(grads.unbind())
    if grads.dim() == 2:
        return list(torch.mm(route.runs_in_segments.to(dtype), grads).unbind())
    sums = grads.new_empty(len(route.segments), *grads.shape[1:])  # together, as ``joined`` likes
    parts = iter(grads.unbind())
    for total, run in zip(sums.unbind(), route.runs_of_segments, strict=True):
        before = next(parts)
        for _ in range(run.stop - run.start - 1):  # less than torch's sum takes
            before = torch.add(before, next(parts), out=total)
        if before is not total:
            total.copy_(before)
    return list(sums.unbind())


def by_task(route: LayerRoute, by_run: Tensor | None) -> Tensor | None:
    """``[T, m]`` from ``[runs, m]``, if any; a task has one run, or none."""
    if by_run is None:
        return None
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
    few, many = (block, rows) if len(block) < len(rows) else (rows, block)  # a CPU's faster order
    few = few.reshape(len(few), pieces, -1).transpose(0, 1)
    many = many.reshape(len(many), pieces, -1).permute(1, 2, 0)
    found = torch.bmm(few, many).sum(0)  # [few, many]
    return found.mT if len(block) < len(rows) else found


@lru_cache
def _pieces(length: int, size: int) -> int:
    """Into how many equal pieces a parameter is cut along its first dimension."""
    fitting = [n for n in range(1, length + 1) if length % n == 0 and size // n >= _PIECE]
    return max(fitting, default=1)
