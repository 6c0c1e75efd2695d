"""Backbones: where the dense model and its tokenizer come from. One file per kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from moe_tasks.errors import UserError

transformers.utils.logging.disable_progress_bar()  # our own display shows what takes time


@dataclass(frozen=True)
class BackboneContext:
    """What a backbone may need to come into being.

    Attributes:
        texts: inputs and outputs of the training tasks, for those who learn from them.
        seed: of everything random.
        device: where to train.
        folder, system: where, and under which name, training keeps its checkpoints, so that a
            stopped run can go on.
        callbacks: observers of whatever training there is (``moe_tasks.training.callbacks``).
        resume: whether to go on with unfinished work there.
    """

    texts: Sequence[str]
    seed: int
    folder: Path
    device: torch.device
    system: str = "pretraining"
    callbacks: Sequence[Any] = ()
    resume: bool = False


class Backbone(Protocol):
    """A part of group ``backbone``: writes a plain Hugging Face folder (model and tokenizer)."""

    def prepare(self, folder: Path, context: BackboneContext) -> None: ...

    def widened(self, factor: int) -> Backbone:
        """The same with ``factor`` times the layer parameters, as the dense control has."""
        ...


def load_dense(folder: str | Path) -> PreTrainedModel:
    """The dense model in ``folder`` (or of a hub name): sequence-to-sequence, or an encoder.

    Raises:
        UserError: nothing there that transformers can load.
    """
    try:
        if is_encoder(AutoConfig.from_pretrained(folder)):
            return AutoModel.from_pretrained(folder)
        return AutoModelForSeq2SeqLM.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]  # the rest lists every model that there is
        raise UserError(
            f"no sequence-to-sequence model or encoder in {folder!s}: {reason:.300}"
        ) from error


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model of this kind reads only (BERT and alike), and is given heads for tasks."""
    reads = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return reads and not (config.is_encoder_decoder or getattr(config, "is_decoder", False))


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer in ``folder`` (or of a hub name)."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer in {folder!s}: {error}") from error
