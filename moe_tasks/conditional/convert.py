"""Turn the encoder of a Hugging Face model into a conditional one.

The model's own modelling code stays: the encoder, its layers and their self-attention become
instances of subclasses of their own classes, which take ``condition`` out of their keyword
arguments (the library hands unknown ones down), and norms are replaced. No globals, thread-locals
or hooks are involved, so gradient checkpointing recomputes correctly.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

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
from moe_tasks.conditional.plans import LayerPlan, check_fits, plan_of
from moe_tasks.experts.convert import named_as

_STD = 0.02  # of new weights, where a configuration names none that fits them (T5)


def convert(model: PreTrainedModel, config: ConditionalConfig) -> None:
    """Give ``model``'s encoder the conditional parts that ``config`` switches on, in place.

    Weights are drawn from torch's global generator with the model's own ``initializer_range``.
    Without any part the model stays as it is.

    Args:
        model: an encoder without a head, e.g. ``BertModel``, or a sequence-to-sequence model, of
            which the decoder stays as it is.

    Raises:
        UserError: as :func:`~moe_tasks.conditional.plans.check_fits`.
    """
    if not config.conditional and not config.fresh_top_layer:
        return
    plan = check_fits(model, config)
    layers = plan.layers_of(model)
    if config.fresh_top_layer:
        _start_afresh(model, layers[-1])
    if not config.conditional:
        return
    encoder, makers = plan.encoder_of(model), _Makers(model, config)
    for index, layer in enumerate(layers):
        in_top_half = index >= top_half(model)
        is_top = index == len(layers) - 1
        _convert_layer(layer, plan, makers, in_top_half=in_top_half, is_top=is_top)
    encoder.alignment = makers.film() if config.alignment else None
    chained = config.bottleneck == "chain"
    encoder.bottlenecks = nn.ModuleList(makers.bottleneck() for _ in layers) if chained else None
    encoder.one_task, encoder.final_norm_name = None, plan.final_norm
    encoder.__class__ = _encoder_class(type(encoder))
    like = next(model.parameters())
    nn.Module.to(model, device=like.device, dtype=like.dtype)


def top_half(model: PreTrainedModel) -> int:
    """Number of the first layer of the top half, in which norms are conditional."""
    return (len(plan_of(model).layers_of(model)) + 1) // 2


def new_std(model: PreTrainedModel) -> float:
    """Standard deviation of the initial weights of what is added to ``model``."""
    config = model.config
    return getattr(config, "initializer_range", None) or getattr(config, "init_std", _STD)


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
        self.std = new_std(model)
        self.film_std = self.std if config.film_init == "published" else 0.0

    def film(self) -> FiLM:
        return FiLM(self.width, self.width, self.film_std)

    def attention_bias(self) -> TaskAttentionBias:
        width = self.config.block_width(self.width)
        return TaskAttentionBias(self.width, self.config.max_length, width, self.film_std)

    def norm(self, norm: nn.Module, slot: ConditionSlot) -> ConditionalLayerNorm:
        return ConditionalLayerNorm(norm, self.width, slot, self.film_std)

    def bottleneck(self) -> ConditionalBottleneck:
        zero = self.config.bottleneck == "residual"
        return ConditionalBottleneck(self.width, self.film_std, self.std, zero=zero)

    def top_adapter(self, eps: float, slot: ConditionSlot) -> TopAdapter:
        norm = nn.LayerNorm(self.width, eps=eps)
        return TopAdapter(self.bottleneck(), self.norm(norm, slot), slot)


def _convert_layer(
    layer: Any, plan: LayerPlan, makers: _Makers, *, in_top_half: bool, is_top: bool
) -> None:
    config, slot = makers.config, ConditionSlot()
    if config.attention != "off":
        attention: Any = layer.get_submodule(plan.attention)
        attention.task_bias = makers.attention_bias()
        attention.needs_full_length = config.attention == "published"
        attention.condition_slot = slot
        attention.__class__ = _attention_class(type(attention))
    eps: float = getattr(layer.get_submodule(plan.norms[-1]), "eps", 0.0)
    if config.layer_norm and in_top_half:
        for name in plan.norms:
            layer.set_submodule(name, makers.norm(layer.get_submodule(name), slot))
    has_adapter = is_top and config.bottleneck == "top"
    layer.adapter = makers.top_adapter(eps, slot) if has_adapter else None
    layer.bottleneck = makers.bottleneck() if config.bottleneck == "residual" else None
    layer.condition_slot = slot
    layer.__class__ = _layer_class(type(layer))


@cache
def _attention_class(parent: Any) -> type:
    known = inspect.signature(parent.forward).parameters
    mask_name = "mask" if "mask" in known else "attention_mask"

    class Conditional(parent):
        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if args:
                kwargs[mask_name], args = args[0], args[1:]
            condition: Condition = self.condition_slot.read()
            positions = hidden_states.shape[1]
            if self.needs_full_length:
                check_length(self.task_bias.matrix.shape[0], positions)
            bias = condition.rows(self.task_bias(condition.projected, positions))
            mask = add_to_mask(kwargs.get(mask_name), bias.to(hidden_states.dtype))
            return super().forward(hidden_states, *args, **{**kwargs, mask_name: mask})

    return named_as(Conditional, parent)


class _Course:
    """What an encoder does beside its layers, in one call.

    Layers say in ``__call__``, which gradient checkpointing is inside of, what went through them.
    """

    def __init__(self, alignment: FiLM | None, condition: Condition) -> None:
        self._alignment, self._condition = alignment, condition
        self.outputs: list[Tensor] = []

    def aligned(self, hidden_states: Tensor) -> Tensor:
        """What goes into a layer: into the first, the modulated embeddings."""
        if self.outputs or self._alignment is None:
            return hidden_states
        return self._alignment(hidden_states, self._condition.embeddings, self._condition)


@cache
def _layer_class(parent: Any) -> type:
    class Conditional(parent):
        def __call__(
            self, hidden_states: Tensor, *args: Any, course: _Course | None = None, **kwargs: Any
        ) -> Any:
            if course is None:
                return super().__call__(hidden_states, *args, **kwargs)
            output = super().__call__(course.aligned(hidden_states), *args, **kwargs)
            course.outputs.append(_hidden(output))
            return output

        def forward(self, *args: Any, condition: Condition | None = None, **kwargs: Any) -> Any:
            with self.condition_slot.holding(condition):
                output = super().forward(*args, **kwargs)
            if self.bottleneck is None:
                return output
            if condition is None:
                return self.condition_slot.read()  # which says what is missing
            hidden = _hidden(output)
            changed = hidden + self.bottleneck(hidden, condition)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
            output = super().feed_forward_chunk(attention_output)
            return output if self.adapter is None else self.adapter(attention_output, output)

    return named_as(Conditional, parent)


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@cache
def _encoder_class(parent: Any) -> type:
    class Conditional(parent):
        def forward(self, *args: Any, condition: Condition | None = None, **kwargs: Any) -> Any:
            if condition is None:
                condition = self._own_condition()
            course = _Course(self.alignment, condition)
            output = super().forward(*args, condition=condition, course=course, **kwargs)
            if self.bottlenecks is not None:
                chained = torch.zeros_like(course.outputs[0])
                for states, bottleneck in zip(course.outputs, self.bottlenecks, strict=True):
                    chained = bottleneck(states + chained, condition)
                output.last_hidden_state = self._finished(chained)
            return output

        def _finished(self, states: Tensor) -> Tensor:
            """What comes after the last layer."""
            norm = self.final_norm_name and getattr(self, self.final_norm_name, None)
            if not norm:
                return states
            dropout = getattr(self, "dropout", None)  # a module in T5, a number in others
            return dropout(norm(states)) if isinstance(dropout, nn.Module) else norm(states)

        def _own_condition(self) -> Condition:
            if self.one_task is None:
                raise RuntimeError("a conditional encoder needs a condition: call it via its model")
            return self.one_task()

    return named_as(Conditional, parent)
