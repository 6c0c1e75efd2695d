"""The models and the batch that are measured: random weights, decided routes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel

from analysis.bench.all_experts import AllExperts
from analysis.bench.setting import ALL_EXPERTS, DENSE, SPREAD, Setting, selection_of
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.runtime import keep_freed_memory
from moe_tasks.training.data import Batch

_FIRST_TOKEN = 4  # after the special ones
# Logits of the planted experts over the others': beyond any Gumbel noise, or a soft route.
_DECIDED, _SOFT = 40.0, 2.0


def backbone(setting: Setting) -> PreTrainedModel:
    """A BART of these sizes with random weights, on the CPU."""
    torch.manual_seed(setting.seed)
    ffn = setting.ffn or 4 * setting.width
    config = BartConfig(
        vocab_size=setting.vocab,
        d_model=setting.width,
        encoder_layers=setting.layers,
        decoder_layers=setting.layers,
        encoder_attention_heads=setting.heads,
        decoder_attention_heads=setting.heads,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        dropout=setting.dropout,
        attention_dropout=0.0,
        max_position_embeddings=max(64, setting.source, setting.target + 1),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)


def batch(setting: Setting) -> Batch:
    """Rows of random tokens, sorted by task, on the CPU as the collator leaves them."""
    generator = torch.Generator().manual_seed(setting.seed)
    ids = torch.randint(
        _FIRST_TOKEN, setting.vocab, (setting.rows, setting.source), generator=generator
    )
    labels = torch.randint(
        _FIRST_TOKEN, setting.vocab, (setting.rows, setting.target), generator=generator
    )
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "task_ids": torch.arange(setting.tasks).repeat_interleave(setting.rows // setting.tasks),
    }
    return Batch.of(inputs, setting.task_names)


def spread_routes(tasks: int, layers: int, num_experts: int, seed: int) -> Tensor:
    """Experts ``[tasks, layers]``: in each layer as many different ones as there can be."""
    generator = torch.Generator().manual_seed(seed)
    turns = -(-tasks // num_experts)
    columns = [
        torch.cat([torch.randperm(num_experts, generator=generator) for _ in range(turns)])[:tasks]
        for _ in range(layers)
    ]
    return torch.stack(columns, 1)


def drawn_routes(tasks: int, layers: int, num_experts: int, seed: int) -> Tensor:
    """Experts ``[tasks, layers]``, each equally likely."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_experts, (tasks, layers), generator=generator)


@torch.no_grad()
def plant(model: TaskMoE, experts: Tensor, gap: float) -> None:
    """Set router and task vectors so that ``experts [tasks, layers]`` lead by ``gap`` logits."""
    vectors = 4 * one_hot(torch.arange(len(experts)), model.spec.task_dim).float()
    model.task_vectors.copy_(vectors)
    for layer, mlp in enumerate(model.router.mlps):  # type: ignore[arg-type]
        wanted = gap * one_hot(experts[:, layer], model.spec.num_experts).float()
        *inner, last = mlp  # type: ignore[misc]
        hidden = vectors
        for module in inner:
            hidden = module(hidden)
        last.weight.copy_(torch.linalg.lstsq(hidden, wanted - last.bias).solution.T)
    if not torch.equal(model.routes().argmax(-1), experts):
        raise RuntimeError("the routes are not those that were planted")


def routed(setting: Setting) -> TaskMoE:
    """A routed model with spread, decided routes, on the CPU."""
    dense = backbone(setting)
    torch.manual_seed(setting.seed + 1)
    model = TaskMoE.from_backbone(
        dense,
        setting.task_names,
        setting.num_experts,
        selection=selection_of(setting.scheme),
        task_dim=max(128, setting.tasks),
        noise=setting.noise,
    )
    choose = spread_routes if setting.routes == SPREAD else drawn_routes
    experts = choose(setting.tasks, model.num_layers, setting.num_experts, setting.seed)
    plant(model, experts, _DECIDED if model.selection.mode == "select" else _SOFT)
    return model


def model_of(setting: Setting) -> MultiTaskModel:
    """The model of the setting's scheme, on its device."""
    if setting.scheme == DENSE:
        return DenseModel(backbone(setting), setting.task_names).to(setting.device)
    model = routed(setting)
    if setting.scheme == ALL_EXPERTS:
        return AllExperts(model).to(setting.device)
    return model.to(setting.device)


def limit_threads(setting: Setting) -> None:
    """Use as many threads as the setting says, and memory as training does."""
    keep_freed_memory()
    torch.set_num_threads(setting.threads)


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
