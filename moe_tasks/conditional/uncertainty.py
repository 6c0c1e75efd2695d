"""MT-Uncertainty: how unsure a model is of rows of several tasks (arXiv 2009.09139, sec. 2.3).

Pure functions of a model's outputs. ``B`` rows of a batch, ``b`` of a task, ``C`` labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moe_tasks.errors import UserError

# The published code adds it to log C.
_PUBLISHED_EPSILON = 1e-5


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats of the distributions ``[..., C]``, ``[...]``; 0 for one label."""
    log_p = logits.float().log_softmax(-1)
    return (-(log_p.exp() * log_p).sum(-1)).clamp_min(0.0)


def normalized_entropy(logits: Tensor, epsilon: float = _PUBLISHED_EPSILON) -> Tensor:
    """Entropy over that of the uniform distribution, ``[..., C]`` to ``[...]`` in [0, 1]."""
    num_labels = logits.shape[-1]
    if num_labels == 1:
        return torch.zeros(logits.shape[:-1], device=logits.device)
    return entropy(logits) / (math.log(num_labels) + epsilon)


def token_mean(values: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of ``[b, S]`` over real tokens (``attention_mask [b, S]``), ``[b]``."""
    mask = attention_mask.to(values)
    return (values * mask).sum(1) / mask.sum(1).clamp_min(1)


def numeric_entropy(
    predictions: Tensor, targets: Tensor, low: float, high: float, bins: int = 64
) -> Tensor:
    """A regression's counterpart of :func:`normalized_entropy` (not in the paper).

    A prediction is read as a normal distribution around it, as wide as the root mean square error
    of these rows, cut to [low, high] and into ``bins``. Hence it falls for all rows as the task is
    learned, and is smaller for a row predicted near an end of the range.

    Args:
        predictions, targets: ``[b]``; the targets of training rows.

    Returns:
        ``[b]`` in [0, 1].
    """
    predictions, targets = predictions.float(), targets.float()
    width = (high - low) / bins
    spread = (predictions - targets).square().mean().sqrt().clamp_min(width / 2)
    centres = torch.linspace(low + width / 2, high - width / 2, bins, device=predictions.device)
    distances = (centres - predictions.clamp(low, high)[:, None]) / spread
    return normalized_entropy(-distances.square() / 2, epsilon=0.0)


def published_scores(normalized: Tensor, task_ids: Tensor) -> Tensor:
    """Normalized entropy times its task's mean over the largest task mean, as the code has it.

    Args:
        normalized: ``[B]``.
        task_ids: int64 ``[B]``.
    """
    means = _task_means(normalized, task_ids)
    return normalized * means / _positive(means.max())


def paper_scores(entropies: Tensor, num_labels: Tensor, task_ids: Tensor) -> Tensor:
    """H / (log C x the largest task mean of H), as the paper has it.

    It ranks rows by normalized entropy alone.

    Args:
        entropies: ``[B]`` in nats.
        num_labels: ``[B]``, C of each row's task; 1 scores 0.
        task_ids: int64 ``[B]``.
    """
    largest = _task_means(entropies, task_ids).max()
    highest = num_labels.float().clamp_min(2).log()
    return torch.where(num_labels > 1, entropies / (highest * _positive(largest)), 0.0)


def _positive(value: Tensor) -> Tensor:
    return value.clamp_min(torch.finfo(value.dtype).tiny)


def _task_means(values: Tensor, task_ids: Tensor) -> Tensor:
    """The mean over each row's task, ``[B]``."""
    _, places = task_ids.unique(return_inverse=True)
    sums = torch.zeros(int(places.max()) + 1, dtype=values.dtype, device=values.device)
    counts = sums.clone().index_add(0, places, torch.ones_like(values))
    return (sums.index_add(0, places, values) / counts)[places]


def borrow(scores: Tensor, task_ids: Tensor, borrower: int, lender: int) -> Tensor:
    """``scores [B]`` with those of the lender's rows, in order, at the borrower's.

    The published code scores STS-B, a regression, with MRPC's. Rows in excess keep their own.
    """
    to, source = ((task_ids == task).nonzero()[:, 0] for task in (borrower, lender))
    count = min(len(to), len(source))
    scores = scores.clone()
    scores[to[:count]] = scores[source[:count]]
    return scores


def pick(scores: Tensor, count: int) -> Tensor:
    """Rows of the ``count`` highest of ``scores [B]``, best first, the earlier one of equals.

    Raises:
        UserError: a score is not a number, so the model has diverged.
    """
    if not bool(scores.isfinite().all()):
        raise UserError("MT-Uncertainty: the model's outputs are not finite; lower the rates")
    return scores.sort(descending=True, stable=True).indices[:count]
