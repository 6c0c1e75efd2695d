"""Turn a Hugging Face encoder of BERT's layer plan into a conditional one.

The model's own modelling code stays: the encoder, its layers and their self-attention become
instances of subclasses of their own classes, which take ``condition`` out of their keyword
arguments (the library hands unknown ones down), and norms are replaced. No globals, thread-locals
or hooks are involved, so gradient checkpointing recomputes correctly.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.modules import (
    Condition,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    ConditionSlot,
    FiLM,
    TaskAttentionBias,
    TopAdapter,
    add_to_mask,
    check_length,
)
from moe_tasks.errors import UserError

# BERT's layer plan, which RoBERTa, XLM-R, ELECTRA, CamemBERT and MiniLM share.
_LAYER_PARTS = ("attention.self", "attention.output.LayerNorm", "output.LayerNorm")


def convert(model: PreTrainedModel, config: ConditionalConfig) -> None:
    """Give ``model`` the conditional parts that ``config`` switches on, in place.

    Weights are drawn from torch's global generator with the model's own ``initializer_range``.
    Without any part the model stays as it is.

    Args:
        model: an encoder without a head, e.g. ``BertModel``.

    Raises:
        UserError: the model has another layer plan, or its width does not fit ``config``.
    """
    layers = _layers(model)
    if config.fresh_top_layer:
        _start_afresh(model, layers[-1])
    if not config.conditional:
        return
    _check_attention(model, config)
    encoder: Any = model.get_submodule("encoder")
    makers = _Makers(model, config)
    for index, layer in enumerate(layers):
        in_top_half = index >= (len(layers) + 1) // 2
        _convert_layer(layer, makers, in_top_half=in_top_half, is_top=index == len(layers) - 1)
    encoder.alignment = makers.film() if config.alignment else None
    chained = config.bottleneck == "chain"
    encoder.bottlenecks = nn.ModuleList(makers.bottleneck() for _ in layers) if chained else None
    encoder.__class__ = _encoder_class(type(encoder))
    like = next(model.parameters())
    nn.Module.to(model, device=like.device, dtype=like.dtype)


def top_half(model: PreTrainedModel) -> int:
    """Number of the first layer of the top half, in which norms are conditional."""
    return (len(_layers(model)) + 1) // 2


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not all(map(_has_parts, layers)):
        raise UserError(
            f"{type(model).__name__} has not the layer plan of BERT (encoder.layer, each with "
            f"{', '.join(_LAYER_PARTS)}); conditional parts are for BERT, RoBERTa, MiniLM and alike"
        )
    return list(layers)


def _has_parts(layer: nn.Module) -> bool:
    names = {name for name, _ in layer.named_modules()}
    return names.issuperset(_LAYER_PARTS) and hasattr(layer, "feed_forward_chunk")


def _check_attention(model: PreTrainedModel, config: ConditionalConfig) -> None:
    if config.attention == "off":
        return
    implementation = getattr(model.config, "_attn_implementation", "eager")
    if implementation not in ("eager", "sdpa"):
        raise UserError(
            f"conditional attention adds to the scores, which attention {implementation!r} cannot; "
            "load the encoder with attn_implementation='sdpa' or 'eager'"
        )
    config.block_width(model.config.hidden_size)


def _start_afresh(model: PreTrainedModel, layer: nn.Module) -> None:
    std = model.config.initializer_range
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()


class _Makers:
    """New modules of one model's sizes."""

    def __init__(self, model: PreTrainedModel, config: ConditionalConfig) -> None:
        self.config = config
        self.width: int = model.config.hidden_size
        self.eps: float = model.config.layer_norm_eps
        self.std: float = model.config.initializer_range
        self.film_std = self.std if config.film_init == "published" else 0.0

    def film(self) -> FiLM:
        return FiLM(self.width, self.width, self.film_std)

    def attention_bias(self) -> TaskAttentionBias:
        width = self.config.block_width(self.width)
        return TaskAttentionBias(self.width, self.config.max_length, width, self.film_std)

    def norm(self, norm: nn.LayerNorm, slot: ConditionSlot) -> ConditionalLayerNorm:
        return ConditionalLayerNorm(norm, self.width, slot, self.film_std)

    def bottleneck(self) -> ConditionalBottleneck:
        zero = self.config.bottleneck == "residual"
        return ConditionalBottleneck(self.width, self.film_std, self.std, zero=zero)

    def top_adapter(self, slot: ConditionSlot) -> TopAdapter:
        norm = nn.LayerNorm(self.width, eps=self.eps)
        return TopAdapter(self.bottleneck(), self.norm(norm, slot), slot)


def _convert_layer(layer: Any, makers: _Makers, *, in_top_half: bool, is_top: bool) -> None:
    config, slot = makers.config, ConditionSlot()
    if config.attention != "off":
        attention: Any = layer.attention.self
        attention.task_bias = makers.attention_bias()
        attention.needs_full_length = config.attention == "published"
        attention.condition_slot = slot
        attention.__class__ = _attention_class(type(attention))
    if config.layer_norm and in_top_half:
        for part in (layer.attention.output, layer.output):
            part.LayerNorm = makers.norm(part.LayerNorm, slot)
    layer.adapter = makers.top_adapter(slot) if is_top and config.bottleneck == "top" else None
    layer.bottleneck = makers.bottleneck() if config.bottleneck == "residual" else None
    layer.condition_slot = slot
    layer.__class__ = _layer_class(type(layer))


def _named_as(cls: type, parent: type) -> type:
    # The library finds layers, and what may not be split, by class name.
    cls.__name__, cls.__qualname__ = parent.__name__, parent.__qualname__
    cls.__module__ = parent.__module__
    return cls


@cache
def _attention_class(parent: Any) -> type:
    class Conditional(parent):
        def forward(
            self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
        ) -> Any:
            condition: Condition = self.condition_slot.read()
            positions = hidden_states.shape[1]
            if self.needs_full_length:
                check_length(self.task_bias.matrix.shape[0], positions)
            bias = condition.rows(self.task_bias(condition.projected, positions))
            mask = add_to_mask(attention_mask, bias.to(hidden_states.dtype))
            return super().forward(hidden_states, attention_mask=mask, **kwargs)

    return _named_as(Conditional, parent)


@cache
def _layer_class(parent: Any) -> type:
    class Conditional(parent):
        def forward(self, *args: Any, condition: Condition | None = None, **kwargs: Any) -> Any:
            with self.condition_slot.holding(condition):
                output = super().forward(*args, **kwargs)
            if self.bottleneck is None:
                return output
            if condition is None:
                return self.condition_slot.read()  # which says what is missing
            return output + self.bottleneck(output, condition)

        def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
            output = super().feed_forward_chunk(attention_output)
            return output if self.adapter is None else self.adapter(attention_output, output)

    return _named_as(Conditional, parent)


@cache
def _encoder_class(parent: Any) -> type:
    class Conditional(parent):
        def forward(
            self, hidden_states: Tensor, *args: Any, condition: Condition, **kwargs: Any
        ) -> Any:
            if self.alignment is not None:
                hidden_states = self.alignment(hidden_states, condition.embeddings, condition)
            if self.bottlenecks is None:
                return super().forward(hidden_states, *args, condition=condition, **kwargs)
            kwargs.pop("use_cache", None)
            chained = torch.zeros_like(hidden_states)
            for layer, bottleneck in zip(self.layer, self.bottlenecks, strict=True):
                hidden_states = layer(hidden_states, *args, condition=condition, **kwargs)
                chained = bottleneck(hidden_states + chained, condition)
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=chained)

    return _named_as(Conditional, parent)
