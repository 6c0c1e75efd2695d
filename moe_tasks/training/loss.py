"""Token cross entropy as a sum and a count, so that any split of a batch adds up exactly."""

from __future__ import annotations

import torch
from torch.nn import functional

IGNORED = -100


def token_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Summed cross entropy in nats, float32, scalar.

    Args:
        logits: [B, T, V], any floating type.
        labels: int64 [B, T], -100 where there is no target.
        label_smoothing: mass spread evenly over the vocabulary (Szegedy et al. 2016, sec. 7).
        weights: [B], of each row's targets; None is 1.
    """
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum" if weights is None else "none",
        label_smoothing=label_smoothing,
    )
    return losses if weights is None else losses.view_as(labels).sum(1) @ weights


def target_lengths(labels: torch.Tensor) -> torch.Tensor:
    """Up to which column each row of ``labels`` [B, T] has targets, int64 [B]."""
    columns = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    return ((labels != IGNORED) * columns).amax(1)


def target_tokens(labels: torch.Tensor) -> int:
    """How many targets ``labels`` has."""
    return int((labels != IGNORED).sum())
