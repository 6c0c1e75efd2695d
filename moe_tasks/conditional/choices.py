"""A head that chooses among options, each of which is an input of its own (COPA, ReCoRD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moe_tasks.conditional.modules import new_linear
from moe_tasks.conditional.spans import MASKED, smoothed_loss
from moe_tasks.errors import UserError
from moe_tasks.tasks.superglue_rows import PLACEHOLDER
from moe_tasks.training.loss import IGNORED


class ChoiceHead(nn.Module):
    """Dropout and one linear layer: one score per input; softmax over a question's options.

    Radford et al. 2018, section 3.3. Same calls as :class:`heads.Head`. Options of a question are
    neighbouring rows; the first of them has its label, the place of the right option among them,
    and the others have -100. Hence a question counts once.

    Args:
        name: of the task, for messages.
    """

    def __init__(self, name: str, width: int, std: float, dropout: float = 0.1) -> None:
        super().__init__()
        self.name = name
        self.dropout = nn.Dropout(dropout)
        self.linear = new_linear(width, 1, std)

    def forward(self, states: Tensor, pooled: Tensor) -> Tensor:
        """``[B, D]`` to scores ``[B, 1]``."""
        return self.linear(self.dropout(pooled))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy over questions, float32, scalar.

        Raises:
            UserError: there is none, or as :meth:`losses`.
        """
        losses, counts = self.losses(logits, labels)
        if counts.device.type == "cpu" and not bool(counts.any()):
            raise UserError(f"task {self.name!r}: none of its rows in the batch has a label")
        return losses.sum() / counts.sum()

    def losses(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Each row's loss, float32 ``[B]``, and its labels, 1 at a question's first row, ``[B]``.

        Args:
            logits: ``[B, 1]``.
            labels: ``[B, T]``, of which the first column counts; see above.

        Raises:
            UserError: (seen on the CPU) a label that is none of the question's options.
        """
        targets, scores = labels[:, 0].long(), logits[:, 0].float()
        starts = targets != IGNORED
        question = starts.cumsum(0)  # [B], from 1; rows before the first start belong to none
        members = question == question[starts][:, None]  # [Q, B]
        self._check(targets[starts], members.sum(1))
        right = starts.nonzero()[:, 0] + targets[starts]  # [Q], the right options' rows
        log_p = scores.where(members, MASKED).log_softmax(1)
        losses = smoothed_loss(log_p, right, members, label_smoothing)
        return torch.zeros_like(scores).masked_scatter(starts, losses), starts.long()

    def _check(self, targets: Tensor, sizes: Tensor) -> None:
        if targets.device.type != "cpu":
            return
        wrong = (targets < 0) | (targets >= sizes)
        if bool(wrong.any()):
            raise UserError(
                f"task {self.name!r}: label {targets[wrong][0].item()} is not one of a question's "
                f"{sizes[wrong][0].item()} options in the batch"
            )


def choice_texts(text: str, options: Sequence[str], separator: str = " [SEP] ") -> list[str]:
    """The input of each option: in the placeholder's stead where there is one, else at the end."""
    if PLACEHOLDER in text:
        return [text.replace(PLACEHOLDER, option) for option in options]
    return [f"{text}{separator}{option}" for option in options]


def choose(scores: Tensor, counts: Sequence[int]) -> list[int]:
    """The best option of each question.

    Args:
        scores: ``[B, 1]``.
        counts: options of each question, which lie one after the other; their sum is B.
    """
    return [int(own.argmax()) for own in scores[:, 0].split(list(counts))]
