"""Small BART and T5 models from scratch, for machines without weights or a network.

A tokenizer and a short denoising pretraining on the training text stand in for what a pretrained
model brings; every system of a run starts from the same result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from moe_tasks.backbones import Backbone, BackboneContext
from moe_tasks.backbones.denoising import DenoisingConfig, denoise
from moe_tasks.backbones.tokenizer import Family, train_tokenizer
from moe_tasks.registry import register


@register("backbone", "tiny")
@dataclass
class TinyBackbone:
    """Attributes:
    family: ``bart`` or ``t5``.
    width, heads, ffn: model width, attention heads, width of the feed-forward part.
    encoder_layers, decoder_layers: depth of each stack.
    vocab_size: at most so many tokens.
    positions: longest sequence (BART).
    pretraining: denoising on the training text.
    decoder_ffn: feed-forward width of the decoder if it differs (BART).
    narrow_ffn: set in a widened backbone: the width that it was made from.
    """

    family: Family = "bart"
    width: int = 64
    heads: int = 4
    ffn: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 2
    vocab_size: int = 2048
    positions: int = 512
    dropout: float = 0.0
    pretraining: DenoisingConfig = field(default_factory=DenoisingConfig)
    decoder_ffn: int | None = None
    narrow_ffn: int | None = None

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"'width' ({self.width}) is not divisible by 'heads' ({self.heads})")

    def prepare(self, folder: Path, context: BackboneContext) -> None:
        """Train tokenizer and model on ``context.texts`` and write both into ``folder``."""
        tokenizer = train_tokenizer(context.texts, self.vocab_size, self.family)
        torch.manual_seed(context.seed)
        model = self._model(len(tokenizer))
        denoise(model, tokenizer, self.pretraining, context)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)

    def widened(self, factor: int) -> Backbone:
        """``factor`` times the parameters of each layer, all of them in the feed-forward part.

        The outputs of the wider part start as large as the narrow one's, so that at the start
        they weigh as much beside attention in the residual sum.
        """
        attention = 4 * self.width * self.width
        encoder = (factor * (attention + 2 * self.width * self.ffn) - attention) / (2 * self.width)
        decoder = (factor * (2 * attention + 2 * self.width * self.ffn) - 2 * attention) / (
            2 * self.width
        )
        if self.family == "t5":  # one feed-forward width for both stacks: share the sum
            encoder = decoder = (encoder + decoder) / 2
        return replace(self, ffn=round(encoder), decoder_ffn=round(decoder), narrow_ffn=self.ffn)

    def _model(self, vocab_size: int) -> hf.PreTrainedModel:
        if self.family == "bart":
            model: hf.PreTrainedModel = hf.BartForConditionalGeneration(self._bart(vocab_size))
        else:
            model = hf.T5ForConditionalGeneration(self._t5(vocab_size))
        if self.narrow_ffn is not None:
            for name, weight in model.named_parameters():
                if name.endswith(("fc2.weight", "wo.weight")):
                    weight.data *= (self.narrow_ffn / weight.shape[1]) ** 0.5
        return model

    def _bart(self, vocab_size: int) -> hf.BartConfig:
        sizes: dict[str, Any] = {
            "d_model": self.width,
            "encoder_layers": self.encoder_layers,
            "decoder_layers": self.decoder_layers,
            "encoder_attention_heads": self.heads,
            "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": self.ffn,
            "decoder_ffn_dim": self.decoder_ffn or self.ffn,
            "dropout": self.dropout,
            "attention_dropout": 0.0,
            "max_position_embeddings": self.positions,
        }
        return hf.BartConfig(
            vocab_size=vocab_size,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            **sizes,
        )

    def _t5(self, vocab_size: int) -> hf.T5Config:
        sizes: dict[str, Any] = {
            "d_model": self.width,
            "d_kv": self.width // self.heads,
            "num_heads": self.heads,
            "d_ff": self.ffn,
            "num_layers": self.encoder_layers,
            "num_decoder_layers": self.decoder_layers,
            "dropout_rate": self.dropout,
        }
        sizes["decoder_start_token_id"] = 0
        return hf.T5Config(vocab_size=vocab_size, pad_token_id=0, eos_token_id=1, **sizes)
