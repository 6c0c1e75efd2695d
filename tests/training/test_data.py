"""Batches of tensors."""

from __future__ import annotations

import pytest
import torch

from moe_tasks.tasks.sampling import UniformSampling
from moe_tasks.training.data import TrainBatches
from tests.training import tiny


def test_rows_are_sorted_by_task_id_and_belong_to_it() -> None:
    sampler = UniformSampling(3, 2).build(tiny.pools(), 1)
    names = ("taste", "unused", "shape", "add", "colour")
    tokens = tiny.RandomTokens()
    batches = TrainBatches(sampler, tokens, names, pad_token_id=1)
    for _ in range(20):
        batch = batches.next()
        ids = batch.inputs["task_ids"].tolist()
        assert ids == sorted(ids)
        assert list(dict.fromkeys(names[i] for i in ids)) == list(batch.tasks)
        assert batch.rows == 6
        for task_id, inputs, labels, mask in zip(
            ids, *(batch.inputs[k] for k in ("input_ids", "labels", "attention_mask")), strict=True
        ):
            source = inputs[mask.bool()].tolist()
            pool = tiny.pools()[names[task_id]]
            assert source in [row.tolist() for row in tokens.sources(pool)]
            assert labels[labels != -100].tolist() == [*reversed(source), 2]


def test_counts() -> None:
    batch = tiny.batches().next()
    mask, labels = batch.inputs["attention_mask"], batch.inputs["labels"]
    assert batch.targets == int((labels != -100).sum())
    assert batch.tokens == int(mask.sum()) + batch.targets
    assert batch.cells == mask.numel() + labels.numel()


def test_parts_are_the_batch_in_pieces() -> None:
    batch = tiny.batches().next()
    for count in (1, 2, 4, 6, 50):
        parts = batch.parts(count)
        assert len(parts) == min(count, batch.rows)
        for key, value in batch.inputs.items():
            assert torch.equal(torch.cat([part[key] for part in parts]), value)


def test_unknown_task_is_refused() -> None:
    sampler = UniformSampling(1, 1).build(tiny.pools(), 1)
    with pytest.raises(ValueError, match="does not know the tasks taste"):
        TrainBatches(sampler, tiny.RandomTokens(), tiny.TASKS[:3], pad_token_id=1)
