"""TextEmb: what the initial model's encoder makes of a task's texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks.registry import register
from moe_tasks.representations.base import VectorContext
from moe_tasks.representations.computed import Representation
from moe_tasks.representations.transformation import Transformation, fit_transformation


@register("task_vectors", "text")
@dataclass
class TextVectors(Representation):
    """Mean state of the initial model's encoder over some inputs, beside that over their outputs
    (TextEmb of 2205.12701; here padding is excluded), standardised and whitened over the training
    tasks.

    Mean states of tasks with the same kind of text lie close together, and a router sends them
    the same way. Whitening gives the directions in which such tasks differ their weight.

    Attributes:
        whiten: principal directions of the standardised vectors are divided by their singular
            value to this power: 0 leaves them, 1 makes all equally wide.
    """

    whiten: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.whiten <= 1:
            raise ValueError(f"'whiten' is {self.whiten}; it must be from 0 to 1")

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        return self.encoded(context.model, inputs, outputs, context.pad_token_id)

    @staticmethod
    def encoded(
        model: PreTrainedModel, inputs: list[Any], outputs: list[Any], pad_token_id: int
    ) -> Tensor:
        """Mean encoder states of inputs and of outputs, side by side, ``[2 D]``."""
        halves = (inputs, outputs)
        return torch.cat([mean_encoder_states(model, half, pad_token_id) for half in halves])

    def transformation(self, raw: Tensor) -> Transformation:
        return fit_transformation(raw, standardise=True, whiten=self.whiten)


@torch.no_grad()
def mean_encoder_states(
    model: PreTrainedModel, texts: Sequence[numpy.ndarray], pad_token_id: int
) -> Tensor:
    """Mean over texts of the mean encoder state over each text's tokens, ``[D]``."""
    length = max(len(text) for text in texts)
    ids = torch.full((len(texts), length), pad_token_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.from_numpy(numpy.asarray(text, numpy.int64))
        mask[row, : len(text)] = 1
    encoder: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    device = next(model.parameters()).device
    states = encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
    return mean_over_texts(states, mask.to(device))


def mean_over_texts(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over texts of the mean over each text's tokens.

    Args:
        states: ``[texts, tokens, D]``.
        mask: ``[texts, tokens]``, 0 for padding.

    Returns:
        ``[D]``, float32, on the CPU.
    """
    weights = mask.to(states)[..., None]
    return ((states * weights).sum(1) / weights.sum(1)).mean(0).float().cpu()
