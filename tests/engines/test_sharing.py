"""Rows are divided without loss, and random numbers are equal where they must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tasks.engines.sharing import share, share_together
from moe_tasks.engines.streams import Streams
from moe_tasks.training.loss import IGNORED
from tests.training import tiny

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=12)


def _batch(sizes: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    rows, source, target = len(sizes), max(s for s, _ in sizes), max(t for _, t in sizes)
    inputs = torch.ones(rows, source, dtype=torch.int64)
    labels = torch.full((rows, target), IGNORED)
    for row, (s, t) in enumerate(sizes):
        inputs[row, :s] = row + 2
        labels[row, :t] = row + 2
    mask = (inputs > 1).long()
    ids = torch.arange(rows)
    return {"input_ids": inputs, "attention_mask": mask, "labels": labels, "task_ids": ids}


@given(SIZES, st.integers(1, 5))
def test_every_row_is_computed_once_and_whole(sizes: list[tuple[int, int]], world: int) -> None:
    batch = _batch(sizes)
    found = []
    for rank in range(world):
        own = share(batch, rank, world)
        assert all(value.is_contiguous() and len(value) for value in own.values())
        for row in range(len(own["task_ids"])):
            targets = int((own["labels"][row] != IGNORED).sum())
            if targets:
                task = int(own["task_ids"][row])
                assert (int(own["attention_mask"][row].sum()), targets) == sizes[task]
                found.append(task)
    assert found == list(range(len(sizes)))


@given(SIZES, st.integers(2, 4))
def test_no_process_gets_much_more_than_its_part(sizes: list[tuple[int, int]], world: int) -> None:
    batch = _batch(sizes)
    cells = [
        own["input_ids"].numel() + own["labels"].numel()
        for own in (share(batch, rank, world) for rank in range(world))
    ]
    whole = batch["input_ids"].numel() + batch["labels"].numel()
    rows = -(-len(sizes) // world)  # equally many rows each would be one way to divide
    assert max(cells) <= rows * (whole // len(sizes))


@given(SIZES, st.sampled_from([(2, 2), (4, 2), (4, 4), (6, 3)]))
def test_rows_of_a_group_are_alike(
    sizes: list[tuple[int, int]], processes: tuple[int, int]
) -> None:
    world, size = processes
    batch, found = _batch(sizes), []
    for first in range(0, world, size):
        shares = [share_together(batch, rank, world, size) for rank in range(first, first + size)]
        groups = [group for _, group in shares]
        assert all(group.counts == groups[0].counts for group in groups)
        assert groups[0].task_ids.tolist() == [
            int(t) for rows, _ in shares for t in rows["task_ids"]
        ]
        assert len({tuple(rows["input_ids"].shape[1:]) for rows, _ in shares}) == 1
        assert len({tuple(rows["labels"].shape[1:]) for rows, _ in shares}) == 1
        assert len({bool(rows["attention_mask"].all()) for rows, _ in shares}) == 1
        for place, (rows, group) in enumerate(shares):
            assert {len(value) for value in rows.values()} == {group.counts[place]}
            assert group.counts[place] >= 2
            assert (rows["attention_mask"].sum(1) > 0).all()
            targets = (rows["labels"] != IGNORED).sum(1)
            assert (targets > 0).tolist() == [n < group.real[place] for n in range(len(targets))]
            for row in range(group.real[place]):
                task = int(rows["task_ids"][row])
                assert (int(rows["attention_mask"][row].sum()), int(targets[row])) == sizes[task]
                found.append(task)
    assert found == list(range(len(sizes)))


def _draws(
    rank: int, world: int, model: Any, steps: int = 2, state: dict[str, torch.Tensor] | None = None
) -> tuple[list[list[float]], list[list[float]], dict[str, torch.Tensor]]:
    """What is drawn before and in the backbone for each batch, and the state after the last."""
    torch.manual_seed(5 if state is None else 99)
    streams = Streams(model, torch.device("cpu"), rank, world)
    if state is not None:
        streams.load(state)
    common, own = [], []
    hook = model.backbone.register_forward_pre_hook(lambda *_: own.append(torch.rand(3).tolist()))
    ids = torch.full((1, 2), 4)
    for _ in range(steps):
        with streams.batch():
            common.append(torch.rand(3).tolist())
            model.backbone(input_ids=ids, route_plan=model.plan(torch.tensor([1])), use_cache=False)
    hook.remove()
    return common, own, streams.tensors()


def test_routes_draw_alike_and_dropout_does_not() -> None:
    first, second = (_draws(rank, 2, tiny.model("gumbel_st")) for rank in (0, 1))
    assert first[0] == second[0]
    assert first[0][0] != first[0][1]
    draws = [*first[1], *second[1]]
    assert len({tuple(draw) for draw in draws}) == len(draws)


def test_noise_per_row_differs_between_processes() -> None:
    model = tiny.model("gumbel_st")
    model.use_selection({"name": "gumbel_st", "noise": "row"})  # type: ignore[attr-defined]
    assert _draws(0, 2, model)[0] != _draws(1, 2, model)[0]


@pytest.mark.parametrize("world", [1, 2])
def test_random_numbers_continue(world: int) -> None:
    common, own, _ = _draws(0, world, tiny.model("gumbel_st"), steps=3)
    *_, state = _draws(0, world, tiny.model("gumbel_st"), steps=1)
    assert _draws(0, world, tiny.model("gumbel_st"), 2, state)[:2] == (common[1:], own[1:])
