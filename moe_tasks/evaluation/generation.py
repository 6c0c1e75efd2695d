"""Predictions by generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from transformers import PreTrainedModel

from moe_tasks.tasks.tokens import collate


@dataclass(frozen=True)
class GenerationConfig:
    """Attributes:
    batch_size: rows decoded together.
    num_beams: 1 is greedy.
    max_new_tokens: longest answer; ``None`` is ``data.max_target``.
    """

    batch_size: int = 64
    num_beams: int = 1
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for key in ("batch_size", "num_beams", "max_new_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"'{key}' is {value}; it must be at least 1")


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    tokenizer: Any,
    sources: Sequence[numpy.ndarray],
    config: GenerationConfig,
    max_new_tokens: int,
) -> list[str]:
    """The plain model's answers to ``sources`` (token ids), in their order.

    Rows are decoded in batches of similar length; evaluation mode is restored afterwards.
    """
    was_training = model.training
    model.eval()
    answers = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    nothing = numpy.zeros(0, numpy.int64)
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        batch = collate([sources[r] for r in rows], [nothing] * len(rows), tokenizer.pad_token_id)
        tokens: Any = model.generate(  # type: ignore[operator]
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            num_beams=config.num_beams,
            do_sample=False,
            max_new_tokens=config.max_new_tokens or max_new_tokens,
        )
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            answers[row] = text.strip()
    model.train(was_training)
    return answers
