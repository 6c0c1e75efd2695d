"""Tiny random backbones of several families, and routed models whose experts truly differ."""

from __future__ import annotations

import torch
import transformers as hf
from torch import Tensor

from moe_tasks import TaskMoE

VOCAB = 60
TASKS = ("add", "colour", "shape", "taste")


def bart(**changes: object) -> hf.BartForConditionalGeneration:
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, encoder_attention_heads=4, decoder_attention_heads=4, dropout=0.0,
        max_position_embeddings=64, init_std=0.2, forced_eos_token_id=2,
    )  # fmt: skip
    return hf.BartForConditionalGeneration(hf.BartConfig(**{**sizes, **changes})).eval()


def t5(**changes: object) -> hf.T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=VOCAB, d_model=32, num_layers=2, num_decoder_layers=2, d_ff=48, d_kv=8,
        num_heads=4, dropout_rate=0.0, decoder_start_token_id=0, initializer_factor=1.0,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(hf.T5Config(**{**sizes, **changes})).eval()


def _decoder_only(config: type, cls: type) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, initializer_range=0.2, head_dim=8,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return cls(config(**sizes)).eval()


def llama() -> hf.PreTrainedModel:
    return _decoder_only(hf.LlamaConfig, hf.LlamaForCausalLM)


def qwen3() -> hf.PreTrainedModel:
    return _decoder_only(hf.Qwen3Config, hf.Qwen3ForCausalLM)


def bert() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, initializer_range=0.2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return hf.BertForMaskedLM(config).eval()


SEQ2SEQ = {"bart": bart, "t5": t5}
FAMILIES = {**SEQ2SEQ, "llama": llama, "qwen3": qwen3, "bert": bert}


def routed(
    family: str, *, perturbed: bool = True, num_experts: int = 3, **options: object
) -> TaskMoE:
    """A routed model in evaluation mode; ``perturbed`` experts differ clearly from each other."""
    backbone = FAMILIES[family]()
    torch.manual_seed(1)
    noise = 0.1 if perturbed else 0.0
    model = TaskMoE.from_backbone(
        backbone, TASKS, num_experts, task_dim=16, noise=noise, **options
    ).eval()
    with torch.no_grad():  # decided routes that differ between tasks and layers
        model.task_vectors.mul_(4)
    return model


def batch(rows: int = 8, source: int = 9, target: int = 5) -> dict[str, Tensor]:
    """A batch with padding in inputs and labels and tasks out of order."""
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.randint(4, VOCAB, (rows, source), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    labels = torch.randint(4, VOCAB, (rows, target), generator=generator)
    for row in range(rows):
        cut = row % 4
        if cut:
            attention_mask[row, -cut:] = 0
            labels[row, -cut:] = -100
    task_ids = torch.tensor([2, 0, 1, 2, 3, 0, 0, 2, 1, 3, 3, 1])[:rows]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "task_ids": task_ids,
    }


def without(mapping: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {k: v for k, v in mapping.items() if k not in keys}


def select_rows(mapping: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    return {k: v[mask] for k, v in mapping.items()}
