"""Denoising pretraining (text infilling, BART: arXiv 1910.13461, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moe_tasks.backbones import BackboneContext
from moe_tasks.tasks.sampling import uniform
from moe_tasks.tasks.tokens import collate
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batch


@dataclass
class DenoisingConfig:
    """Attributes:
    steps: updates; 0 leaves the random weights as they are.
    learning_rate: peak rate.
    batch_size: texts per update.
    masked: share of tokens that are hidden; neighbours become one mask.
    max_tokens: longer texts are cut.
    """

    steps: int = 600
    learning_rate: float = 2e-3
    batch_size: int = 64
    masked: float = 0.3
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError("'steps' must be at least 0 and 'batch_size' at least 1")
        if not 0 < self.masked < 1:
            raise ValueError(f"'masked' is {self.masked}; it must be between 0 and 1")


def denoise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: DenoisingConfig,
    context: BackboneContext,
) -> None:
    """Train ``model`` in place to restore ``context.texts``."""
    from moe_tasks.multitask import DenseModel
    from moe_tasks.training.trainer import Trainer

    if config.steps == 0:
        return
    training = TrainingConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        eval_every=None,
        save_every=None,
    )
    Trainer(
        DenseModel(model, ["denoising"]).to(context.device),
        training,
        DenoisingBatches(context.texts, tokenizer, config, context.seed),
        context.folder,
        system=context.system,
        evaluate=None,
        callbacks=context.callbacks,
        seed=context.seed,
    ).fit(resume=context.resume)
    model.eval().cpu()  # type: ignore[call-arg]


class DenoisingBatches:
    """An endless supply of corrupted texts; every text once per epoch."""

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        config: DenoisingConfig,
        seed: int,
    ) -> None:
        encoded: Any = tokenizer(list(dict.fromkeys(texts)))
        self._ids = [numpy.array(i[: config.max_tokens], numpy.int64) for i in encoded["input_ids"]]
        self._special = numpy.array(tokenizer.all_special_ids)
        self._mask_id: int = tokenizer.mask_token_id  # type: ignore[assignment]
        self._pad_id: int = tokenizer.pad_token_id  # type: ignore[assignment]
        self._config, self._seed, self._number = config, seed, 0
        self._order: tuple[int, numpy.ndarray] = (-1, numpy.zeros(0, numpy.int64))

    def next(self) -> Batch:
        """The next batch: corrupted texts as inputs, whole ones as labels."""
        size = self._config.batch_size
        rows = [self._row(i) for i in range(self._number * size, (self._number + 1) * size)]
        self._number += 1
        inputs = dict(collate([s for s, _ in rows], [t for _, t in rows], self._pad_id))
        inputs["task_ids"] = torch.zeros(size, dtype=torch.int64)
        return Batch.of(inputs, ["denoising"])

    def _row(self, draw: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        epoch, position = divmod(draw, len(self._ids))
        if self._order[0] != epoch:
            draws = uniform(len(self._ids), self._seed, "denoising", epoch)
            self._order = (epoch, numpy.argsort(draws, kind="stable"))
        whole = self._ids[int(self._order[1][position])]
        hidden = uniform(len(whole), self._seed, "masks", draw) < self._config.masked
        hidden &= ~numpy.isin(whole, self._special)
        first = hidden & ~numpy.concatenate([[False], hidden[:-1]])
        source = numpy.where(hidden, self._mask_id, whole)[~hidden | first]
        return source, whole

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self._number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._number = int(state["batch"])

    def fingerprint(self) -> dict[str, Any]:
        return {"seed": self._seed, "texts": len(self._ids), "masked": self._config.masked}
