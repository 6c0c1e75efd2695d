"""What both kinds of models need to score given tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from moe_tasks.training.loss import IGNORED


def padded(rows: Sequence[numpy.ndarray], value: int, *, left: bool = False) -> Tensor:
    """Rows of ids as one int64 tensor ``[rows, longest]``, filled up with ``value``."""
    width = max(map(len, rows))
    filled = numpy.full((len(rows), width), value, numpy.int64)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        filled[number, place] = row
    return torch.from_numpy(filled)


def lengths_of(rows: Sequence[numpy.ndarray]) -> Tensor:
    """Length of each row ``[rows]``."""
    return torch.tensor([len(row) for row in rows])


def summed_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over tokens of log p(label), ``[rows]`` in float64; and whether every label is the most
    probable token, ``[rows]``. Both on the CPU.

    Args:
        logits: ``[rows, tokens, vocabulary]``.
        labels: ``[rows, tokens]``, -100 where there is none.
    """
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    greedy = ((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1)
    return -losses.view(labels.shape).double().sum(1).cpu(), greedy.cpu()
