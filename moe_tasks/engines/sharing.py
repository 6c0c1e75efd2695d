"""Which rows of a batch each process computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from moe_tasks.training.loss import IGNORED

Rows = dict[str, torch.Tensor]


def share(inputs: Mapping[str, torch.Tensor], rank: int, world: int) -> Rows:
    """The rows of process ``rank``, padded to their own longest row.

    Runs of rows as they lie, so that a task's stay together, of about equally many tokens with
    padding. No row is computed twice. Where there are fewer rows than processes, some get a row
    without targets: it keeps their steps alike and adds nothing.

    Args:
        inputs: of a batch with padding on the right, as ``Batch.inputs``.
    """
    sources = inputs["attention_mask"].sum(1).tolist()
    targets = (inputs["labels"] != IGNORED).sum(1).tolist()
    runs = _runs(list(zip(sources, targets, strict=True)), world)
    own = runs[rank] if rank < len(runs) else slice(0, 1)
    widths = {"labels": max(1, *targets[own])}
    widths["input_ids"] = widths["attention_mask"] = max(sources[own])
    rows = {
        key: (value[own, : widths[key]] if key in widths else value[own]).contiguous()
        for key, value in inputs.items()
    }
    if rank >= len(runs):
        rows["labels"] = torch.full_like(rows["labels"], IGNORED)
    return rows


def _runs(sizes: Sequence[tuple[int, int]], count: int) -> list[slice]:
    """At most ``count`` runs of rows (source and target lengths) whose largest is smallest."""
    low, high = 1, _cells(sizes)
    while low < high:
        middle = (low + high) // 2
        if len(_fill(sizes, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return _fill(sizes, low)


def _fill(sizes: Sequence[tuple[int, int]], most: int) -> list[slice]:
    """Runs of at most ``most`` tokens with padding each, but of one row at least."""
    runs, start = [], 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or _cells(sizes[start : stop + 1]) > most:
            runs.append(slice(start, stop))
            start = stop
    return runs


def _cells(sizes: Sequence[tuple[int, int]]) -> int:
    sources, targets = zip(*sizes, strict=True)
    return len(sizes) * (max(sources) + max(targets))
