"""Tiny encoders of BERT's layer plan, conditional ones whose tasks truly differ, and batches."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.heads import HeadConfig
from moe_tasks.conditional.model import CAMTL

VOCAB, WIDTH, LENGTH = 60, 24, 12
HEADS = {
    "grammar": HeadConfig("classification", 2),
    "likeness": HeadConfig("regression", 1),
    "inference": HeadConfig("classification", 3),
    "names": HeadConfig("tokens", 4),
}
_FAMILIES = {
    "bert": (hf.BertConfig, hf.BertModel),
    "roberta": (hf.RobertaConfig, hf.RobertaModel),
    "electra": (hf.ElectraConfig, hf.ElectraModel),
    "xlm_roberta": (hf.XLMRobertaConfig, hf.XLMRobertaModel),
}
FAMILIES = tuple(_FAMILIES)


def encoder(family: str = "bert", **changes: Any) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config, cls = _FAMILIES[family]
    sizes = dict(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=32, initializer_range=0.3, hidden_dropout_prob=0.0, pad_token_id=1,
        attention_probs_dropout_prob=0.0, max_position_embeddings=40, embedding_size=WIDTH,
    )  # fmt: skip
    return cls(config(**{**sizes, **changes})).eval()


def pooling(family: str) -> Any:
    return "first" if family == "electra" else "pooler"  # which has no pooler


def conditional(
    family: str = "bert", config: ConditionalConfig | None = None, **changes: Any
) -> CAMTL:
    """In evaluation mode, every conditional parameter clearly away from its start."""
    config = ConditionalConfig.base(max_length=LENGTH) if config is None else config
    backbone = encoder(family, **changes)
    torch.manual_seed(1)
    model = CAMTL(backbone, list(HEADS), HEADS, config, pooling=pooling(family)).eval()
    return shaken(model)


@torch.no_grad()
def shaken(model: CAMTL) -> CAMTL:
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise, alpha=0.2)
    return model


def batch(positions: int = LENGTH, longest: int | None = None) -> dict[str, Tensor]:
    """Six rows of four tasks, out of order, of up to ``longest`` tokens, padded."""
    longest = positions if longest is None else longest
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(6, positions, dtype=torch.int64)
    for row, short in enumerate((0, 2, 1, 4, 0, 3)):
        mask[row, : longest - short] = 1
    ids = torch.randint(2, VOCAB, (6, 40), generator=generator)[:, :positions]
    labels = torch.randint(0, 2, (6, 40), generator=generator)[:, :positions].float()
    return {
        "input_ids": ids.where(mask.bool(), torch.tensor(1)),
        "attention_mask": mask,
        "labels": labels.where(mask.bool(), torch.tensor(-100.0)),
        "task_ids": torch.tensor([2, 0, 3, 1, 2, 0]),
    }


def error(ours: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected magnitude."""
    assert ours.shape == expected.shape
    scale = max(expected.detach().abs().max().item(), 1e-12)
    return (ours - expected).detach().abs().max().item() / scale
