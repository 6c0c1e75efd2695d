"""The loss against PyTorch, Hugging Face and a formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from moe_tasks.training.loss import target_tokens, token_loss
from tests.training import tiny


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 11, (3, 5))
    labels[0, 3:] = -100
    labels[2] = -100  # a row without any target
    return torch.randn(3, 5, 11), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_equals_torch_and_the_formula(example, smoothing: float) -> None:
    logits, labels = example
    total, count = token_loss(logits, labels, smoothing), target_tokens(labels)
    assert count == 8
    mean = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing
    )
    torch.testing.assert_close(total / count, mean)
    kept = labels != -100
    log_p = logits.log_softmax(-1)[kept]
    true = log_p.gather(-1, labels[kept][:, None]).squeeze(-1)
    expected = -((1 - smoothing) * true + smoothing * log_p.mean(-1)).sum()
    torch.testing.assert_close(total, expected)


def test_equals_the_model_s_own_loss() -> None:
    batch = tiny.batches().next()
    output = tiny.model(dropout=0.0)(**batch.inputs)
    loss = token_loss(output.logits, batch.inputs["labels"]) / batch.targets
    torch.testing.assert_close(loss, output.loss)


def test_low_precision_logits_are_summed_in_float32(example) -> None:
    logits, labels = example
    loss = token_loss(logits.bfloat16(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, token_loss(logits.bfloat16().float(), labels))


def test_no_targets_no_loss(example) -> None:
    logits, labels = example
    logits.requires_grad_()
    loss = token_loss(logits, torch.full_like(labels, -100), 0.1)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_weights_count_rows_and_tasks_alike() -> None:
    """``task_mean`` is the mean over a batch's tasks of each task's mean loss."""
    batch = tiny.batches().next()
    weighted = batch.weighted_by_task()
    model = tiny.model(dropout=0.0)
    logits = model(**batch.inputs).logits
    ids, labels = batch.inputs["task_ids"], batch.inputs["labels"]
    means = [
        token_loss(logits[ids == task], labels[ids == task]) / target_tokens(labels[ids == task])
        for task in ids.unique()
    ]
    total = model.loss(weighted.inputs) / weighted.targets
    torch.testing.assert_close(total, torch.stack(means).mean())
    parts = [model.loss(part) for part in weighted.parts(3)]
    torch.testing.assert_close(torch.stack(parts).sum() / weighted.targets, total)
