"""Batches of tensors."""

from __future__ import annotations

import numpy
import pytest
import torch

from moe_tasks.engines.local import LocalEngine
from moe_tasks.tasks.sampling import UniformSampling
from moe_tasks.tasks.tokens import collate
from moe_tasks.training.data import Batch, TrainBatches
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


def of_lengths(*lengths: tuple[int, int]) -> Batch:
    """Two rows per task whose inputs and targets are of these lengths."""
    sources = [numpy.full(s, 5) for s, _ in lengths for _ in range(2)]
    targets = [numpy.full(t, 6) for _, t in lengths for _ in range(2)]
    ids = torch.arange(len(lengths)).repeat_interleave(2)
    names = [f"task{i}" for i in range(len(lengths))]
    return Batch.of({**collate(sources, targets, 1), "task_ids": ids}, names)


def test_groups_of_like_length_have_the_fewest_cells() -> None:
    batch = of_lengths((30, 2), (4, 2), (29, 3), (5, 1), (12, 2))
    groups = {n: batch.by_length(n) for n in (1, 2, 3, 4)}
    assert groups[1] == [batch]
    assert [g.tasks for g in groups[2]] == [("task1", "task3", "task4"), ("task0", "task2")]
    assert [g.tasks for g in groups[3]] == [
        ("task1", "task3"),
        ("task4",),
        ("task0", "task2"),
    ]
    assert [g.cells for g in groups[3]] == [4 * (5 + 2), 2 * (12 + 2), 4 * (30 + 3)]
    assert len(groups[4]) == 3  # a fourth group saves next to nothing
    for parts in groups.values():
        assert sum(p.targets for p in parts) == batch.targets
        assert sum(p.tokens for p in parts) == batch.tokens
        assert sum(p.rows for p in parts) == batch.rows
        for part in parts:
            ids = part.inputs["task_ids"].tolist()
            assert ids == sorted(ids)
            assert [f"task{i}" for i in dict.fromkeys(ids)] == list(part.tasks)
    assert len(of_lengths((8, 2), (8, 2)).by_length(4)) == 1


@pytest.mark.parametrize("kind", ["dense", "softmax"])  # Gumbel noise is drawn per group
def test_groups_of_like_length_give_the_same_gradients(kind: str) -> None:
    model = tiny.model(kind, dropout=0.0)
    batch = of_lengths((20, 2), (4, 2), (19, 3), (5, 1))
    grads = []
    for parts in ([batch], batch.by_length(3)):
        engine = LocalEngine(model, tiny.config())
        loss, norm = engine.backward(parts)
        grads.append((loss, norm, {n: p.grad.clone() for n, p in named(model)}))
        engine.zero_gradients()
    assert len(parts) == 2
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def named(model):
    return [(n, p) for n, p in model.named_parameters() if p.grad is not None]
