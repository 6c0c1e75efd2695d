"""A sentence encoder's view of a task's texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.representations.base import VectorContext, weights_fingerprint
from moe_tasks.representations.computed import Cell, Representation
from moe_tasks.representations.text import mean_over_texts
from moe_tasks.representations.transformation import Transformation, fit_transformation


@register("task_vectors", "sentence")
@dataclass
class SentenceVectors(Representation):
    """As ``text``, by another encoder than the backbone's: states of its last layer, averaged over
    the tokens of each text and over texts, inputs beside outputs, standardised and whitened.

    Attributes:
        path: folder, or name on the hub, of anything that transformers' ``AutoModel`` loads with
            its tokenizer.
        max_length: longer texts are cut, in tokens.
        whiten: as for ``text``.
    """

    path: str = ""
    max_length: int = 128
    whiten: float = 0.5

    uses_backbone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("'path' is empty; give the folder or hub name of a sentence encoder")
        if self.max_length < 1:
            raise ValueError(f"'max_length' is {self.max_length}; it must be at least 1")
        if not 0 <= self.whiten <= 1:
            raise ValueError(f"'whiten' is {self.whiten}; it must be from 0 to 1")

    def settings(self) -> dict[str, Any]:
        """The encoder counts by its weights and vocabulary, wherever it lies."""
        return {**super().settings(), "path": self._content}

    def texts(self, context: VectorContext, cell: Cell) -> tuple[list[Any], list[Any]]:
        assert context.raw_texts is not None, "this representation needs the texts as strings"
        inputs, outputs = context.raw_texts(*cell)
        return inputs[: self.examples], outputs[: self.examples]

    @torch.no_grad()
    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        device = next(context.model.parameters()).device
        return torch.cat([self.mean(half, device) for half in (inputs, outputs)])

    def transformation(self, raw: Tensor) -> Transformation:
        return fit_transformation(raw, standardise=True, whiten=self.whiten)

    def mean(self, texts: list[str], device: torch.device) -> Tensor:
        """Mean state ``[D]`` over texts and their tokens, on the CPU."""
        model, tokenizer = self._encoder
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(device)
        states = model.to(device)(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        return mean_over_texts(states, batch["attention_mask"])

    @cached_property
    def _content(self) -> str:
        model, tokenizer = self._encoder
        return f"{weights_fingerprint(model)} {len(tokenizer)}"

    @cached_property
    def _encoder(self) -> tuple[Any, Any]:
        """Model and tokenizer.

        Raises:
            UserError: they cannot be loaded, or the tokenizer cannot pad.
        """
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self.path)
            model: Any = AutoModel.from_pretrained(self.path)
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"task_vectors.path: no sentence encoder in {self.path}: {reason}"
            ) from error
        if tokenizer.pad_token is None:
            raise UserError(f"task_vectors.path: the tokenizer of {self.path} has no padding token")
        encoder = model.get_encoder() if model.config.is_encoder_decoder else model
        return encoder.eval(), tokenizer
