"""A head that finds an answer's first and last token in its input, and what its scores say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tasks.conditional.labelled_head import HeadConfig, LabelledHead
from moe_tasks.errors import UserError
from moe_tasks.training.loss import IGNORED

MASKED = -1e9  # the score of what cannot be chosen


class SpanHead(LabelledHead):
    """Dropout and one linear layer: a score per token of being first, and of being last.

    Devlin et al. 2019, section 4.2 (SQuAD).

    Args:
        name: of the task, for messages.
    """

    def __init__(self, name: str, width: int, std: float, dropout: float = 0.1) -> None:
        super().__init__(name, HeadConfig("span", 2), width, std, dropout)

    def forward(
        self, states: Tensor, pooled: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """``[B, S, D]`` to scores ``[B, S, 2]``, float32 where there is a mask.

        Args:
            attention_mask: ``[B, S]``; padding then scores so low that how long a batch is padded
                changes nothing.
        """
        scores = self.linear(self.dropout(states))
        if attention_mask is None:
            return scores
        return scores.float().masked_fill(attention_mask[..., None] == 0, MASKED)

    def losses(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Each row's summed loss, float32 ``[B]``, and how many labels it has, 0 or 2, ``[B]``.

        Args:
            logits: ``[B, S, 2]``.
            labels: ``[B, T]``, ``T >= 2``: places of the first and the last token; -100 of a row
                without an answer in its input.

        Raises:
            UserError: too few columns, or (seen on the CPU) a place outside the input.
        """
        if labels.dim() != 2 or labels.shape[1] < 2:
            raise UserError(
                f"task {self.name!r}: labels of shape {list(labels.shape)}; expected first and "
                "last token of each row"
            )
        targets = labels[:, :2].long()
        known = targets != IGNORED
        self._check(targets, known, logits.shape[1])
        log_p = logits.float().transpose(1, 2).log_softmax(2)  # [B, 2, S]
        losses = smoothed_loss(log_p, targets.clamp_min(0), log_p > MASKED / 2, label_smoothing)
        return losses.where(known, 0.0).sum(1), known.sum(1)

    def _check(self, targets: Tensor, known: Tensor, positions: int) -> None:
        if targets.device.type != "cpu":
            return
        outside = known & ((targets < 0) | (targets >= positions))
        if bool(outside.any()):
            raise UserError(
                f"task {self.name!r}: label {targets[outside][0].item()} is no token of an input "
                f"of {positions} tokens"
            )


def smoothed_loss(log_p: Tensor, targets: Tensor, allowed: Tensor, smoothing: float) -> Tensor:
    """Cross entropy among what is allowed, ``[...]``.

    Args:
        log_p: ``[..., C]``.
        targets: int64 ``[...]``.
        allowed: boolean ``[..., C]``, over which ``smoothing`` of the target's weight is spread.
    """
    losses = -log_p.gather(-1, targets[..., None])[..., 0]
    if not smoothing:
        return losses
    spread = -log_p.where(allowed, 0.0).sum(-1) / allowed.sum(-1)
    return (1 - smoothing) * losses + smoothing * spread


@dataclass(frozen=True)
class Span:
    """Tokens ``first`` to ``last`` of an input, and the sum of their scores."""

    first: int
    last: int
    score: float


def best_spans(logits: Tensor, answerable: Tensor, longest: int = 30) -> list[Span | None]:
    """The best answer of each input: first before last, at most ``longest`` tokens.

    Args:
        logits: ``[B, S, 2]``.
        answerable: boolean ``[B, S]``, tokens that an answer may have: those of the context.

    Returns:
        None for an input without such a token. Scores of windows of one context can be compared.
    """
    positions = logits.shape[1]
    scores = logits.float().masked_fill(~answerable[..., None], -math.inf)
    pairs = scores[:, :, None, 0] + scores[:, None, :, 1]  # [B, first, last]
    allowed = torch.ones(positions, positions, dtype=torch.bool, device=logits.device)
    allowed = allowed.triu() & ~allowed.triu(longest)
    best, places = pairs.masked_fill(~allowed, -math.inf).flatten(1).max(1)
    return [
        Span(place // positions, place % positions, score) if math.isfinite(score) else None
        for score, place in zip(best.tolist(), places.tolist(), strict=True)
    ]


def span_entropy(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """How unsure a model is of each answer: mean normalized entropy of its two ends, ``[B]``.

    The counterpart of :func:`uncertainty.normalized_entropy`, over as many tokens as a row has.

    Args:
        logits: ``[B, S, 2]``.
        attention_mask: ``[B, S]``.
    """
    real = attention_mask[..., None].bool()
    log_p = logits.float().masked_fill(~real, MASKED).log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)  # [B, 2] in nats
    highest = attention_mask.sum(1, keepdim=True).clamp_min(2).log()
    return (entropy / highest).mean(1).clamp(0.0, 1.0)
