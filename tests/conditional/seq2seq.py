"""Conditional sequence-to-sequence models whose tasks truly differ, and a slow encoder."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import top_half
from moe_tasks.conditional.seq2seq import ConditionalSeq2Seq, RoutedConditionalSeq2Seq
from moe_tasks.model import TaskMoEConfig
from tests.models import SEQ2SEQ, TASKS

LENGTH = 8  # of conditional attention: shorter than some inputs
PARTS = {
    "chain": ConditionalConfig.large(max_length=LENGTH),
    "residual": ConditionalConfig(max_length=LENGTH, bottleneck="residual"),
    "uneven": ConditionalConfig.large(max_length=7, attention_blocks=3, bottleneck="off"),
}
IDENTITY = dataclasses.replace(PARTS["residual"], film_init="identity")
Model = ConditionalSeq2Seq | RoutedConditionalSeq2Seq


def build(
    family: str,
    config: ConditionalConfig,
    selection: dict[str, Any] | None = None,
    **changes: object,
) -> Model:
    """Of float64, in evaluation mode, as training would find it; with experts if given a
    ``selection``."""
    backbone = SEQ2SEQ[family](**changes)
    torch.manual_seed(1)
    if selection is None:
        return ConditionalSeq2Seq(backbone, TASKS, config).eval().double()
    spec = TaskMoEConfig(selection=selection, task_dim=8, hidden_dim=8)
    return RoutedConditionalSeq2Seq(backbone, TASKS, spec, config).eval().double()


@torch.no_grad()
def shaken(
    family: str, name: str, selection: dict[str, Any] | None = None, **changes: object
) -> Model:
    """As :func:`build`, every parameter clearly away from its start."""
    model = build(family, PARTS[name], selection, **changes)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(noise, alpha=0.2)
    return model


class SlowEncoder:
    """One row at a time, one task, explicit matrices; parts are read off a model by their names."""

    def __init__(self, model: Model, task: int) -> None:
        self.is_t5 = model.backbone.config.model_type == "t5"
        self.encoder: Any = model.backbone.get_encoder()
        self.config, self.top_half = model.config, top_half(model.backbone)
        assert model.task_embedding is not None
        self.z = model.task_embedding.weight[task]
        self.projected = self._linear(model.task_projection, self.z)

    def __call__(self, ids: Tensor) -> Tensor:
        """``[S]`` to ``[S, D]``."""
        encoder, positions = self.encoder, len(ids)
        states = encoder.embed_tokens.weight[ids]
        if not self.is_t5:
            states = states + encoder.embed_positions.weight[2 : 2 + positions]
            states = self._norm(encoder.layernorm_embedding, states, False)
        states = self._film(encoder.alignment, states, self.z)
        chained = torch.zeros_like(states)
        layers = encoder.block if self.is_t5 else encoder.layers
        for number, layer in enumerate(layers):
            states = self._layer(layer, states, number >= self.top_half)
            if self.config.bottleneck == "residual":
                states = states + self._bottleneck(layer.bottleneck, states)
            if self.config.bottleneck == "chain":
                chained = self._bottleneck(encoder.bottlenecks[number], states + chained)
        states = chained if self.config.bottleneck == "chain" else states
        return self._norm(encoder.final_layer_norm, states, False) if self.is_t5 else states

    def _layer(self, layer: Any, x: Tensor, modulated: bool) -> Tensor:
        if self.is_t5:
            normed = self._norm(layer.layer[0].layer_norm, x, modulated)
            x = x + self._attention(layer.layer[0].SelfAttention, "qkvo", normed)
            normed = self._norm(layer.layer[1].layer_norm, x, modulated)
            dense = layer.layer[1].DenseReluDense
            return x + self._linear(dense.wo, self._linear(dense.wi, normed).relu())
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        x = x + self._attention(layer.self_attn, names, x)
        x = self._norm(layer.self_attn_layer_norm, x, modulated)
        inner = nn.functional.gelu(self._linear(layer.fc1, x))
        return self._norm(layer.final_layer_norm, x + self._linear(layer.fc2, inner), modulated)

    def _attention(self, attention: Any, names: Any, x: Tensor) -> Tensor:
        query, key, value, out = (getattr(attention, name) for name in names)
        bias, heads, width = self._bias(attention.task_bias, len(x)), [], 8
        for head in range(4):
            part = slice(head * width, (head + 1) * width)
            q, k, v = (self._linear(layer, x)[:, part] for layer in (query, key, value))
            scores = q @ k.T / (1 if self.is_t5 else width**0.5) + bias
            if self.is_t5:
                first = self.encoder.block[0].layer[0].SelfAttention
                scores = scores + first.compute_bias(len(x), len(x))[0, head]
            heads.append(scores.softmax(-1) @ v)
        return self._linear(out, torch.cat(heads, -1))

    def _bias(self, part: Any, positions: int) -> Tensor:
        """Equation 5, cell by cell; longer inputs repeat it."""
        length, width = part.matrix.shape
        gamma, beta = self._linear(part.film.linear, self.projected).chunk(2)
        found = torch.zeros(positions, positions, dtype=torch.float64)
        for i in range(positions):
            for j in range(positions):
                row, column = i % length, j % length
                if i // length == j // length and row // width == column // width:
                    c = column % width
                    found[i, j] = (1 + gamma[c]) * part.matrix[row, c] + beta[c]
        return found

    def _norm(self, norm: Any, x: Tensor, modulated: bool) -> Tensor:
        centred = x if self.is_t5 else x - x.mean(-1, keepdim=True)
        eps = 1e-6 if self.is_t5 else 1e-5
        normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        weight = norm.weight
        if modulated:
            gamma, beta = self._linear(norm.film.linear, self.projected).chunk(2)
            weight = (1 + gamma) * weight + beta
        return normed * weight if self.is_t5 else normed * weight + norm.bias

    def _bottleneck(self, part: Any, x: Tensor) -> Tensor:
        z = self._linear(part.task_projection, self.projected)
        return self._linear(part.up, self._linear(part.down, self._film(part.film, x, z)))

    def _film(self, film: Any, x: Tensor, z: Tensor) -> Tensor:
        gamma, beta = self._linear(film.linear, z).chunk(2)
        return (1 + gamma) * x + beta

    def _linear(self, layer: Any, x: Tensor) -> Tensor:
        return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
