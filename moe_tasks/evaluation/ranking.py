"""Rank classification: which of a row's answer options is most probable (Brown et al. 2020,
arXiv 2005.14165; Sanh et al., arXiv 2110.08207).

The input of a row is computed once for all its options: options of any number and length then
share the encoder's states, or a decoder-only model's key-value cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks.evaluation.ranking_causal import causal_log_probs
from moe_tasks.evaluation.ranking_seq2seq import seq2seq_log_probs

Ids = numpy.ndarray


@dataclass(frozen=True)
class Question:
    """Token ids of one row: its input, and each of its options, at least one token long."""

    source: Ids
    options: tuple[Ids, ...]

    def __post_init__(self) -> None:
        if not self.options or not all(len(option) for option in self.options):
            raise ValueError("a question needs options, each of at least one token")


@dataclass(frozen=True)
class Ranked:
    """One row's options: natural logarithms of their probabilities, and how many tokens they
    have. The longer an option, the lower its summed logarithm; ``means`` make up for it.
    ``greedy``: whether greedy decoding would give it."""

    sums: tuple[float, ...]
    lengths: tuple[int, ...]
    greedy: tuple[bool, ...] = ()

    @property
    def means(self) -> tuple[float, ...]:
        """Log-probability per token."""
        return tuple(s / n for s, n in zip(self.sums, self.lengths, strict=True))

    @property
    def best_by_sum(self) -> int:
        """The first option of highest summed log-probability."""
        return self.sums.index(max(self.sums))

    @property
    def best_by_mean(self) -> int:
        """The first option of highest log-probability per token."""
        return self.means.index(max(self.means))


@torch.inference_mode()
def rank(
    model: PreTrainedModel,
    questions: Sequence[Question],
    pad_token_id: int,
    batch_size: int = 64,
) -> list[Ranked]:
    """Log-probabilities of all options of all questions, in their order.

    Args:
        model: a plain sequence-to-sequence or decoder-only model; its mode is restored afterwards.
        batch_size: options computed together; a row's are never parted, so that a row with more is
            a batch of its own.
    """
    was_training = model.training
    model.eval()
    score = seq2seq_log_probs if model.config.is_encoder_decoder else causal_log_probs
    found: list[Ranked | None] = [None] * len(questions)
    for rows in _batches(questions, batch_size):
        chosen = [questions[row] for row in rows]
        sources = [question.source for question in chosen]
        sums, greedy = score(model, sources, _flat(chosen), _owners(chosen), pad_token_id)
        counts = [len(question.options) for question in chosen]
        own = zip(sums.split(counts), greedy.split(counts), strict=True)
        for row, (values, flags) in zip(rows, own, strict=True):
            lengths = tuple(len(option) for option in questions[row].options)
            found[row] = Ranked(tuple(values.tolist()), lengths, tuple(flags.tolist()))
    model.train(was_training)
    return [ranked for ranked in found if ranked is not None]


def _batches(questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """Rows of like length, as many as have ``batch_size`` options."""

    def length(row: int) -> tuple[int, int]:
        return len(questions[row].source), max(map(len, questions[row].options))

    batch: list[int] = []
    count = 0
    for row in sorted(range(len(questions)), key=length):
        if batch and count + len(questions[row].options) > batch_size:
            yield batch
            batch, count = [], 0
        batch.append(row)
        count += len(questions[row].options)
    if batch:
        yield batch


def _flat(questions: Sequence[Question]) -> list[Ids]:
    return [option for question in questions for option in question.options]


def _owners(questions: Sequence[Question]) -> Tensor:
    """Which question each option belongs to, ``[N]``."""
    counts: Any = [len(question.options) for question in questions]
    return torch.repeat_interleave(torch.arange(len(questions)), torch.tensor(counts))
