"""The head that chooses among options: losses of questions of several sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moe_tasks.conditional.choices import ChoiceHead, choice_texts, choose
from moe_tasks.errors import UserError

WIDTH = 6


@pytest.fixture
def head() -> ChoiceHead:
    torch.manual_seed(0)
    return ChoiceHead("copa", WIDTH, 0.5).eval()


def pooled(rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))


def labels(*numbers: int) -> Tensor:
    return torch.tensor(numbers)[:, None]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_over_the_options_of_each_question(head: ChoiceHead, smoothing: float) -> None:
    logits = head(pooled(6)[:, None], pooled(6))
    assert logits.shape == (6, 1)
    given = labels(1, -100, 0, 2, -100, -100)  # questions of 2, 1 and 3 options
    losses, counts = head.losses(logits, given, smoothing)
    assert counts.tolist() == [1, 0, 1, 1, 0, 0]
    for first, size, right in ((0, 2, 1), (2, 1, 0), (3, 3, 2)):
        own = logits[first : first + size, 0]
        wanted = F.cross_entropy(own, torch.tensor(right), label_smoothing=smoothing)
        assert torch.allclose(losses[first], wanted, atol=1e-6)
    assert losses[[1, 4, 5]].abs().sum() == 0
    plain, _ = head.losses(logits, given)
    assert torch.allclose(head.loss(logits, given.float()), plain.sum() / 3)


def test_other_questions_change_nothing(head: ChoiceHead) -> None:
    scores = head(pooled(6)[:, None], pooled(6))
    together, _ = head.losses(scores, labels(1, -100, 0, -100, 1, -100))
    alone, _ = head.losses(scores[2:4], labels(0, -100))
    assert torch.allclose(together[2:4], alone)
    orphaned, counts = head.losses(scores[1:4], labels(-100, 0, -100))  # cut between options
    assert torch.allclose(orphaned, together[1:4])
    assert counts.tolist() == [0, 1, 0]
    nothing, counts = head.losses(scores[:2], labels(-100, -100))
    assert (nothing.tolist(), counts.tolist()) == ([0, 0], [0, 0])


def test_every_parameter_learns(head: ChoiceHead) -> None:
    head.loss(head(pooled(4)[:, None], pooled(4)), labels(1, -100, 0, -100)).backward()
    assert head.linear.weight.grad is not None
    assert head.linear.weight.grad.abs().sum() > 0


def test_wrong_labels_are_one_message(head: ChoiceHead) -> None:
    scores = head(pooled(4)[:, None], pooled(4))
    for given, message in (
        (labels(2, -100, 0, -100), "'copa': label 2 is not one of a question's 2 options"),
        (labels(0, -100, -7, -100), "'copa': label -7 is not one of"),
        (labels(-100, -100, -100, -100), "'copa': none of its rows in the batch has a label"),
    ):
        with pytest.raises(UserError, match=message):
            head.loss(scores, given)


def test_inputs_and_choices() -> None:
    assert choice_texts("It fell.", ["a", "b"]) == ["It fell. [SEP] a", "It fell. [SEP] b"]
    assert choice_texts("x [SEP] @placeholder ate", ["Ann"], "|") == ["x [SEP] Ann ate"]
    assert choose(torch.tensor([[0.0], [2.0], [5.0], [1.0], [3.0]]), [2, 3]) == [1, 0]
