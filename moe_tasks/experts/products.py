"""Products of grouped rows with the experts that their tasks selected, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from moe_tasks.routing.plan import Block, LayerRoute
from moe_tasks.runtime import cpu_name

# Numbers of a parameter that are compared at a time, at least: MKL shares pieces among threads.
_PIECE = 2**15
# Up to so many rows of a task, MKL multiplies in half the time if the weights come first; but on
# Intel's own processors in twice the time.
_FEW = 0 if "intel" in cpu_name().lower() else 4


# By block: ``[in, out]`` of one expert, or ``[count, in, out]`` of several; and what is added,
# ``[out]`` or ``[count, 1, out]``.
Factor = tuple[Tensor, Tensor | None]


def products(x: Tensor, blocks: Sequence[Block], factors: Sequence[Factor]) -> Tensor:
    """``x [B, ..., in]`` times each block's matrix, plus its bias: ``[B, ..., out]``."""
    x = x.contiguous()
    shape = (*x.shape[:-1], factors[0][0].shape[-1])
    if len(blocks) == 1:
        return _product(_rows(x, blocks)[0], *factors[0]).view(shape)
    y = x.new_empty(shape)
    for rows, (matrix, bias), out in zip(_rows(x, blocks), factors, _rows(y, blocks), strict=True):
        _product(rows, matrix, bias, out)
    return y


def _product(
    rows: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """``rows [N, in]`` to ``[N, out]``, or ``[count, N, in]`` to ``[count, N, out]``."""
    if matrix.dtype != rows.dtype:
        matrix, bias = matrix.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    if rows.shape[-2] <= _FEW and rows.device.type == "cpu" and matrix.stride(-2) == 1:
        return _product_of_few(rows, matrix.mT, bias, out)
    if rows.dim() == 2:  # an ordinary product is faster than a batch of one
        if bias is None:
            return torch.mm(rows, matrix, out=out)
        return torch.addmm(bias, rows, matrix, out=out)
    if bias is None:
        return torch.bmm(rows, matrix, out=out)
    return torch.baddbmm(bias, rows, matrix, out=out)


def _product_of_few(
    rows: Tensor, weights: Tensor, bias: Tensor | None, out: Tensor | None
) -> Tensor:
    """The same with ``weights [..., out, in]`` first, as when tokens are decoded one by one."""
    if bias is None:
        y = weights @ rows.mT
    elif rows.dim() == 2:
        y = torch.addmm(bias[:, None], weights, rows.mT)
    else:
        y = torch.baddbmm(bias.mT, weights, rows.mT)
    return y.mT.contiguous() if out is None else out.copy_(y.mT)


def _rows(x: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Each block's rows of a contiguous ``x [B, ..., D]`` as a view.

    ``[rows * ..., D]`` for one expert, else ``[count, rows * ..., D]``.
    """
    width = x.shape[-1]
    if len(blocks) == 1:  # tasks of equally many rows: without it, 5% of a small backward pass
        count = blocks[0].count
        return [x.view(-1, width) if count == 1 else x.view(count, -1, width)]
    size = x.numel() // x.shape[0] // width
    parts = x.view(-1, width).split_with_sizes([(b.stop - b.start) * size for b in blocks])
    return [
        rows if block.count == 1 else rows.view(block.count, -1, width)
        for rows, block in zip(parts, blocks, strict=True)
    ]


def run_grads(x: Tensor, grad_y: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Weight gradients ``[runs, out, in]`` of each run of rows."""
    pairs = list(zip(_rows(grad_y, blocks), _rows(x, blocks), strict=True))
    if len(blocks) == 1 and blocks[0].count > 1:
        return torch.bmm(pairs[0][0].mT, pairs[0][1])
    grads = x.new_empty(sum(block.count for block in blocks), grad_y.shape[-1], x.shape[-1])
    first = 0
    for block, (of_y, of_x) in zip(blocks, pairs, strict=True):
        if block.count == 1:
            torch.mm(of_y.mT, of_x, out=grads[first])
        else:
            torch.bmm(of_y.mT, of_x, out=grads[first : first + block.count])
        first += block.count
    return grads


def run_sums(x: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Sums ``[runs, D]`` over the positions of each run of rows ``x [B, ..., D]``."""
    sums = [rows.sum(-2).view(-1, x.shape[-1]) for rows in _rows(x, blocks)]
    return sums[0] if len(sums) == 1 else torch.cat(sums)


def of_segments(grads: Tensor, route: LayerRoute) -> Tensor:
    """Sums ``[segments, ...]`` of ``grads [runs, ...]``, or as they are, one for each."""
    by_run = route.runs_of_segments
    if len(by_run) == grads.shape[0]:
        return grads
    if grads.dim() == 2:
        return torch.mm(route.runs_in_segments.to(grads.dtype), grads)
    sums = grads.new_empty(len(by_run), *grads.shape[1:])
    parts = grads.unbind()
    for total, runs in zip(sums.unbind(), by_run, strict=True):
        before, *others = parts[runs]
        if not others:
            total.copy_(before)
        for part in others:  # less than torch's sum takes
            before = torch.add(before, part, out=total)
    return sums


def inner(rows: Tensor, block: Tensor) -> Tensor:
    """Inner products ``[R, m]`` of ``rows [R, ...]`` with m parameters ``[m, ...]``.

    Parameters may lie apart, the numbers of each in one piece.
    """
    if block.dtype != rows.dtype:
        block = block.to(rows.dtype)
    rows, size = rows.contiguous(), prod(rows.shape[1:])
    pieces = _pieces(rows.shape[1], size)
    if pieces == 1:
        return torch.mm(rows.flatten(1), block.flatten(1).mT)
    fewer = block.shape[0] < rows.shape[0]
    few, many = (block, rows) if fewer else (rows, block)  # a CPU's faster order
    found = torch.bmm(_cut(few, pieces), _cut(many, pieces).mT).sum(0)  # [few, many]
    return found.mT if fewer else found


def is_summed_in_place(x: Tensor, weights: Tensor, route: LayerRoute) -> bool:
    """Whether :func:`summed_in_place` takes less time, for ``weights [m, out, in]``.

    So it was measured with MKL and two threads: for more outputs than inputs, not for fewer or as
    many. Likely these products are shared by rows, and each thread finds its own in its cache.
    """
    out, width = weights.shape[1:]
    return (
        len(route.task_segments) > len(route.segments)
        and out > width
        and _pieces(out, out * width) > 1
        and weights.device.type == "cpu"
        and x.dtype == weights.dtype
    )


def summed_in_place(
    x: Tensor, grad_y: Tensor, weights: Tensor, route: LayerRoute
) -> tuple[Tensor, Tensor]:
    """Weight gradients ``[segments, out, in]`` and inner products ``[runs, m]`` of each run's.

    As :func:`run_grads`, :func:`inner` and :func:`of_segments` give them, but each run's is added
    to those before it, and only the sums so far are compared with ``weights [m, out, in]``: what a
    run adds to their inner products is its own.
    """
    width, (num_experts, *shape) = x.shape[-1], weights.shape
    pieces = _pieces(shape[0], prod(shape))
    every = _cut(weights, pieces).mT  # [pieces, length, m]
    positions = x.numel() // x.shape[0] // width
    sizes = [run.rows * positions for run in route.task_segments]
    of_x = x.view(-1, width).split_with_sizes(sizes)
    of_y = grad_y.view(-1, shape[0]).split_with_sizes(sizes)
    sums = x.new_empty(len(route.segments), *shape)
    so_far = x.new_empty(len(sizes), pieces, 1, num_experts)
    found = so_far.unbind()
    for total, runs in zip(sums.unbind(), route.runs_of_segments, strict=True):
        cut = _cut(total[None], pieces)
        for run in range(runs.start, runs.stop):
            if run == runs.start:
                torch.mm(of_y[run].mT, of_x[run], out=total)
            else:
                total.addmm_(of_y[run].mT, of_x[run])
            torch.bmm(cut, every, out=found[run])
    added = route.runs_from_sums.to(so_far.dtype)
    return sums, torch.mm(added, so_far.sum((1, 2)))


def _cut(rows: Tensor, pieces: int) -> Tensor:
    """``rows [R, ...]``, each in one stretch of memory, as ``[pieces, R, length]``."""
    length = prod(rows.shape[1:]) // pieces
    return rows.as_strided((pieces, rows.shape[0], length), (length, rows.stride(0), 1))


@lru_cache
def _pieces(length: int, size: int) -> int:
    """Into how many equal pieces a parameter is cut along its first dimension."""
    fitting = [n for n in range(1, length + 1) if length % n == 0 and size // n >= _PIECE]
    return max(fitting, default=1)
