"""Which rows of a batch each process computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from moe_tasks.experts.trips import GroupRows
from moe_tasks.training.loss import IGNORED, target_lengths

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
    targets = target_lengths(inputs["labels"]).tolist()
    runs = _runs(list(zip(sources, targets, strict=True)), world)
    own = runs[rank] if rank < len(runs) else slice(0, 1)
    rows = _cut(inputs, own, max(sources[own]), max(1, *targets[own]))
    if rank >= len(runs):
        rows["labels"] = torch.full_like(rows["labels"], IGNORED)
    return rows


def share_together(
    inputs: Mapping[str, torch.Tensor], rank: int, world: int, size: int
) -> tuple[Rows, GroupRows]:
    """The rows of process ``rank`` and which those of its group of ``size`` neighbours are.

    Padded to the longest row of the group. Rows without targets are added such that each process
    has at least two, and such that all or none have padding: layers then get the same kinds of
    arguments everywhere (the library leaves out masks that hide nothing).
    """
    sources = inputs["attention_mask"].sum(1).tolist()
    targets = target_lengths(inputs["labels"]).tolist()
    runs = _runs(list(zip(sources, targets, strict=True)), world)
    first = rank // size * size
    slices = [runs[r] if r < len(runs) else slice(0, 0) for r in range(first, first + size)]
    all_rows = [row for own in slices for row in range(own.start, own.stop)] or [0]
    source = max(sources[row] for row in all_rows)
    target = max(1, *(targets[row] for row in all_rows))
    full = [own.start < own.stop and min(sources[own]) == source for own in slices]
    real = [own.stop - own.start for own in slices]
    padded = source > 1 and not all(full)
    counts = [max(2, n + (padded and is_full)) for n, is_full in zip(real, full, strict=True)]
    ids = [
        inputs["task_ids"][[*range(own.start, own.stop), *[own.start] * (count - n)]]
        for own, n, count in zip(slices, real, counts, strict=True)
    ]
    group = GroupRows(torch.cat(ids), tuple(counts), tuple(real))
    place = rank - first
    own, extra = slices[place], counts[place] - real[place]
    rows = _cut(inputs, own, source, target)
    blank = _cut(inputs, slice(own.start, own.start + 1), source, target)
    blank["labels"] = torch.full_like(blank["labels"], IGNORED)
    if padded:
        blank["attention_mask"] = (torch.arange(source) < 1).long()[None]
    return {key: torch.cat([value, *[blank[key]] * extra]) for key, value in rows.items()}, group


def _cut(inputs: Mapping[str, torch.Tensor], own: slice, source: int, target: int) -> Rows:
    widths = {"labels": target, **dict.fromkeys(("input_ids", "attention_mask"), source)}
    widths["token_type_ids"] = source
    return {
        key: (value[own, : widths[key]] if key in widths else value[own]).contiguous()
        for key, value in inputs.items()
    }


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
