"""Turn an ordinary Hugging Face model into a routed one, and back for one task.

The model's own modelling code stays. Leaves of its layers become banks, and each layer becomes
an instance of a subclass of its own class that takes ``route_plan`` out of its keyword
arguments. The library hands unknown keyword arguments down to the layers, so nothing else of
the model changes; no globals, thread-locals or hooks are involved.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from moe_tasks import registry
from moe_tasks.errors import UserError, nearest
from moe_tasks.experts.bank import ExpertBank, banks_of
from moe_tasks.experts.joint import join
from moe_tasks.experts.leaf_banks import make_bank
from moe_tasks.experts.routed_layer import LayerCall, RouteSlot, cache_places, call_routed
from moe_tasks.routing.plan import Mode, RoutePlan


def named_layers(model: PreTrainedModel) -> dict[str, GradientCheckpointingLayer]:
    """Transformer layers by ``stack.number``, e.g. ``encoder.0``, encoder first.

    Raises:
        UserError: the model has no layers that this package can find.
    """
    found: dict[str, list[GradientCheckpointingLayer]] = {"encoder": [], "decoder": []}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 0:
            layers = [layer for layer in module if isinstance(layer, GradientCheckpointingLayer)]
            if len(layers) == len(module):
                found[_stack(model, path)].extend(layers)
    named = {f"{s}.{i}": layer for s, layers in found.items() for i, layer in enumerate(layers)}
    if not named:
        raise UserError(
            f"{type(model).__name__} has no Transformer layers that can be found: they must be "
            "GradientCheckpointingLayer modules in an nn.ModuleList"
        )
    return named


def _stack(model: PreTrainedModel, path: str) -> str:
    if model.config.is_encoder_decoder:
        return "decoder" if "decoder" in path.split(".") else "encoder"
    return "encoder" if "encoder" in path.split(".") else "decoder"


def convert(
    model: PreTrainedModel,
    num_experts: int | Sequence[int],
    *,
    experts: str = "layer",
    layers_without_experts: Collection[str] = (),
    noise: float = 0.0,
) -> list[str]:
    """Give every layer of ``model`` ``num_experts`` versions, in place.

    Args:
        num_experts: for all layers, or for each that gets experts.
        experts: granularity, a name registered under ``experts``.
        layers_without_experts: layer names (``encoder.0``) that stay as they are.
        noise: standard deviation of the Gaussian noise added to every expert's parameters
            (1e-8 in 2205.12701); drawn from torch's global generator.

    Returns:
        Names of the layers that now have experts, in route order.

    Raises:
        UserError: fewer than one expert, a layer name that the model lacks, or no layer left.
    """
    layers = named_layers(model)
    if isinstance(num_experts, int) and num_experts < 1:
        raise UserError(f"'router.num_experts' is {num_experts}; it must be at least 1")
    for name in layers_without_experts:
        if name not in layers:
            raise UserError(f"no layer {name!r} in the model; {nearest(name, layers)}")
    routed = [name for name in layers if name not in set(layers_without_experts)]
    if not routed:
        raise UserError("'experts.layers_without_experts' names every layer; leave at least one")
    granularity = registry.lookup("experts", experts)
    counts = [num_experts] * len(routed) if isinstance(num_experts, int) else num_experts
    for name, layer in layers.items():
        slot = RouteSlot()
        if name in routed:
            for leaf in list(_leaves(layer)):
                if granularity(layer, leaf):
                    bank = make_bank(layer.get_submodule(leaf), counts[routed.index(name)], slot)
                    _add_noise(bank, noise)
                    layer.set_submodule(leaf, bank)
            join(layer)
        layer.__class__ = _routed_layer_class(type(layer))
        placed = cast(_Placed, layer)
        placed.route_slot = slot
        placed.route_index = routed.index(name) if name in routed else None
    model.__class__ = _routed_model_class(type(model))
    return routed


def _leaves(layer: nn.Module) -> Iterator[str]:
    """Modules with parameters of their own.

    Embeddings (T5's position bias) stay shared, and modules that say so (``without_experts``).
    """
    shared: tuple[str, ...] = ()
    for name, module in layer.named_modules():
        if getattr(module, "without_experts", False):
            shared = (*shared, f"{name}.")
        if f"{name}.".startswith(shared or "\0"):
            continue
        own = next(module.parameters(recurse=False), None)
        if own is not None and not isinstance(module, nn.Embedding):
            if next(module.children(), None) is not None:
                raise UserError(f"{type(module).__name__} has both parameters and sub-modules")
            yield name


@torch.no_grad()
def _add_noise(bank: ExpertBank, noise: float) -> None:
    if noise > 0:
        for parameter in bank.experts.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)


def named_as(cls: type, parent: type) -> type:
    """``cls`` under the name by which the library finds layers, and what may not be split."""
    cls.__name__, cls.__qualname__ = parent.__name__, parent.__qualname__
    cls.__module__ = parent.__module__
    return cls


class _Placed(Protocol):
    """What conversion adds to a layer."""

    route_slot: RouteSlot
    route_index: int | None  # place among the routed layers; None for one without experts


@cache
def _routed_layer_class(parent: Any) -> type:
    class Routed(parent):
        def _apply(self, *args: Any, **kwargs: Any) -> Any:
            super()._apply(*args, **kwargs)
            for bank in banks_of(self):  # those that lie together are all here only now
                bank.pack()
            return self

        def forward(self, *args: Any, route_plan: RoutePlan | None = None, **kwargs: Any) -> Any:
            place = cast(_Placed, self)
            if route_plan is None and place.route_index is not None:
                raise RuntimeError("a routed model needs a route plan: call it through TaskMoE")
            if route_plan is None:
                return super().forward(*args, **kwargs)
            call = LayerCall(super().forward, args, kwargs)
            if place.route_index is not None:
                route = route_plan.layers[place.route_index]
                return call_routed(self, call, route, place.route_slot)
            if route_plan.mode != "mix":
                return call()
            with cache_places(self, route_plan.weights.shape[-1], 0):
                return call()

    return named_as(Routed, parent)


@cache
def _routed_model_class(parent: Any) -> type:
    class Routed(parent):
        """``generate`` accepts ``route_plan`` and repeats its rows for beams."""

        def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
            super()._validate_model_kwargs(
                {k: v for k, v in model_kwargs.items() if k != "route_plan"}
            )
            model_kwargs.pop("decoder_input_ids", None)

        def _expand_inputs_for_generation(
            self, expand_size: int = 1, **kwargs: Any
        ) -> tuple[Tensor, dict[str, Any]]:
            plan = kwargs.get("route_plan")
            ids, kwargs = super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
            if plan is not None:
                kwargs["route_plan"] = plan.repeat_rows(expand_size)
            return ids, kwargs

    return named_as(Routed, parent)


def squeeze(model: PreTrainedModel, weights: Tensor, mode: Mode) -> PreTrainedModel:
    """The plain model of a task with route ``weights [L, m]``: the class that was converted.

    Its tensors are copies; the routed model stays as it is.
    """
    memo: dict[int, Any] = {}
    for layer in named_layers(model).values():
        index = cast(_Placed, layer).route_index
        for module in layer.modules():
            if isinstance(module, ExpertBank) and index is not None:
                # deepcopy takes the squeezed leaf for the bank, so no bank is ever copied whole
                memo[id(module)] = module.squeezed(weights[index].detach(), mode)
    plain = copy.deepcopy(model, memo)
    for layer in named_layers(plain).values():
        layer.__class__ = type(layer).__mro__[1]
        del layer.route_slot, layer.route_index
    plain.__class__ = type(plain).__mro__[1]
    return plain
