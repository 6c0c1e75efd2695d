"""Granularities: which leaves of a Transformer layer exist m times."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from moe_tasks.registry import register

# (layer, dotted name of the leaf inside it) -> whether the leaf becomes a bank
Granularity = Callable[[nn.Module, str], bool]


@register("experts", "layer")
def whole_layer(layer: nn.Module, leaf: str) -> bool:
    """Every leaf with parameters: the whole layer exists m times (2205.12701)."""
    return True


@register("experts", "attention")
def attention(layer: nn.Module, leaf: str) -> bool:
    """Only leaves inside an attention module (norms outside it stay shared)."""
    path = leaf.split(".")
    modules = (layer.get_submodule(".".join(path[:i])) for i in range(1, len(path)))
    return any("attention" in type(module).__name__.lower() for module in modules)


@register("experts", "ffn")
def feed_forward(layer: nn.Module, leaf: str) -> bool:
    """Only linear leaves outside attention: the feed-forward part."""
    return isinstance(layer.get_submodule(leaf), nn.Linear) and not attention(layer, leaf)
