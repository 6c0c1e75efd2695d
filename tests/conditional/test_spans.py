"""The span head: losses, padding, decoding and uncertainty."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tasks.conditional.spans import SpanHead, best_spans, span_entropy
from moe_tasks.errors import UserError

WIDTH = 6


@pytest.fixture
def head() -> SpanHead:
    torch.manual_seed(0)
    return SpanHead("squad", WIDTH, 0.5).eval()


def states(rows: int = 3, positions: int = 7) -> Tensor:
    return torch.randn(rows, positions, WIDTH, generator=torch.Generator().manual_seed(1))


def test_loss_is_that_of_both_ends(head: SpanHead) -> None:
    logits = head(states(), states()[:, 0])
    labels = torch.tensor([[1, 3, -100], [-100, -100, -100], [2, 2, -100]])
    losses, counts = head.losses(logits, labels)
    assert counts.tolist() == [2, 0, 2]
    for row, (first, last) in ((0, (1, 3)), (2, (2, 2))):
        ends = [F.cross_entropy(logits[row, :, end], torch.tensor(place))
                for end, place in ((0, first), (1, last))]  # fmt: skip
        assert torch.allclose(losses[row], sum(ends, torch.zeros(())))
    assert losses[1] == 0
    assert torch.allclose(head.loss(logits, labels.float()), losses.sum() / 4)
    both = torch.stack([logits[0, :, 0], logits[0, :, 1]])
    smooth = F.cross_entropy(both, labels[0, :2], label_smoothing=0.2, reduction="sum")
    assert torch.allclose(head.losses(logits, labels, 0.2)[0][0], smooth)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_changes_nothing(head: SpanHead, smoothing: float) -> None:
    x, labels = states(), torch.tensor([[1, 3], [0, 4], [2, 2]])
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[1:, 5:] = 0
    logits = head(x, x[:, 0], mask)
    longer = torch.cat([x, torch.full((3, 4, WIDTH), 9.0)], 1)
    padded = head(longer, x[:, 0], F.pad(mask, (0, 4)))
    ours, theirs = (head.losses(value, labels, smoothing)[0] for value in (logits, padded))
    assert torch.allclose(ours, theirs)
    assert ours.max() < 100
    alone = head(x[1:2, :5], x[1:2, 0])
    assert torch.allclose(ours[1:2], head.losses(alone, labels[1:2], smoothing)[0])
    assert torch.allclose(span_entropy(logits, mask), span_entropy(padded, F.pad(mask, (0, 4))))
    half = head.half()(longer.half(), x[:, 0].half(), F.pad(mask, (0, 4)))
    assert torch.allclose(head.losses(half, labels)[0], head.losses(padded, labels)[0], atol=0.05)


def test_every_parameter_learns(head: SpanHead) -> None:
    head.loss(
        head(states(), states()[:, 0]), torch.tensor([[1, 3], [-100, -100], [2, 2]])
    ).backward()
    assert all(bool(p.grad is not None and p.grad.abs().sum() > 0) for p in head.parameters())


def slow_best(logits: Tensor, answerable: list[bool], longest: int) -> tuple[int, int] | None:
    best, found = -math.inf, None
    for first in range(len(answerable)):
        for last in range(first, min(first + longest, len(answerable))):
            value = (logits[first, 0] + logits[last, 1]).item()
            if answerable[first] and answerable[last] and value > best:
                best, found = value, (first, last)
    return found


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_best_spans_against_a_slow_search(longest: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(20, 9, 2, generator=generator)
    answerable = torch.rand(20, 9, generator=generator) < 0.6
    answerable[3] = False
    for row, span in enumerate(best_spans(logits, answerable, longest)):
        wanted = slow_best(logits[row], answerable[row].tolist(), longest)
        assert (span and (span.first, span.last)) == wanted
        if span:
            total = logits[row, span.first, 0] + logits[row, span.last, 1]
            assert span.score == pytest.approx(total.item())
    assert best_spans(logits, answerable, longest)[3] is None


def test_uncertainty_is_normalized() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    logits = torch.zeros(4, 4, 2)
    logits[2, 1] = 50.0
    found = span_entropy(logits, mask)
    assert torch.allclose(found, torch.tensor([1.0, 1.0, 0.0, 0.0]), atol=1e-5)


def test_wrong_labels_are_one_message(head: SpanHead) -> None:
    logits = head(states(), states()[:, 0])
    for labels, message in (
        (torch.tensor([[1, 7], [0, 1], [0, 1]]), "'squad': label 7 is no token of an input of 7"),
        (torch.tensor([[1, -2], [0, 1], [0, 1]]), "'squad': label -2 is no token"),
        (torch.tensor([[1], [0], [0]]), r"'squad': labels of shape \[3, 1\]; expected first and"),
        (torch.full((3, 2), -100), "'squad': none of its rows in the batch has a label"),
    ):
        with pytest.raises(UserError, match=message):
            head.loss(logits, labels)
