"""Layer plans of encoders: where each has what conditional parts change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.errors import UserError


@dataclass(frozen=True)
class LayerPlan:
    """Attributes:
    encoder: path of the encoder in the model.
    layers: of the list of layers in the encoder.
    attention: of self-attention in a layer.
    norms: of the norms in a layer.
    final_norm: of the norm after the last layer in the encoder, where there is one.
    chunk: method that computes a layer's feed-forward part and what follows; the base
        arrangement's new end of the last layer needs it.
    """

    encoder: str
    layers: str
    attention: str
    norms: tuple[str, str]
    final_norm: str | None = None
    chunk: str | None = None

    def encoder_of(self, model: PreTrainedModel) -> Any:
        """The module of which ``layers`` are."""
        return model.get_submodule(self.encoder)

    def layers_of(self, model: PreTrainedModel) -> list[nn.Module]:
        """All layers of the encoder."""
        return list(getattr(self.encoder_of(model), self.layers))

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether ``model`` has this plan."""
        modules = dict(model.named_modules())
        layers = modules.get(f"{self.encoder}.{self.layers}")
        return isinstance(layers, nn.ModuleList) and len(layers) > 0 and all(map(self._has, layers))

    def _has(self, layer: nn.Module) -> bool:
        names = {name for name, _ in layer.named_modules()}
        chunked = self.chunk is None or hasattr(layer, self.chunk)
        return chunked and names.issuperset((self.attention, *self.norms))


PLANS = {
    "BERT": LayerPlan(
        "encoder", "layer", "attention.self", ("attention.output.LayerNorm", "output.LayerNorm"),
        chunk="feed_forward_chunk",
    ),
    "BART": LayerPlan(
        "model.encoder", "layers", "self_attn", ("self_attn_layer_norm", "final_layer_norm"),
        "layer_norm",
    ),
    "T5": LayerPlan(
        "encoder", "block", "layer.0.SelfAttention", ("layer.0.layer_norm", "layer.1.layer_norm"),
        "final_layer_norm",
    ),
}  # fmt: skip


def plan_of(model: PreTrainedModel) -> LayerPlan:
    """The layer plan of ``model``'s encoder.

    Raises:
        UserError: it has none of those that conditional parts know.
    """
    for plan in PLANS.values():
        if plan.fits(model):
            return plan
    raise UserError(
        f"{type(model).__name__} has not the layer plan of {', '.join(PLANS)}; conditional parts "
        "are for BERT, RoBERTa, MiniLM and alike, and for the encoders of BART, T5 and alike"
    )


def check_fits(model: PreTrainedModel, config: ConditionalConfig) -> LayerPlan:
    """The plan of a model that can have the parts that ``config`` switches on.

    Raises:
        UserError: it has another layer plan, lacks the place of a part, or its attention or its
            width does not fit.
    """
    plan = plan_of(model)
    if plan.chunk is None and (config.bottleneck == "top" or config.fresh_top_layer):
        key = "fresh_top_layer" if config.fresh_top_layer else "bottleneck: top"
        raise UserError(
            f"'conditional.{key}' changes the last layer of BERT's plan, which "
            f"{type(model).__name__} has not: take name: large (bottleneck: chain), or bottleneck: "
            "residual with fresh_top_layer: false"
        )
    if config.bottleneck == "chain" and getattr(model.config, "encoder_layerdrop", 0.0):
        raise UserError(
            "'conditional.bottleneck: chain' needs every layer, and the backbone drops some "
            f"(encoder_layerdrop={model.config.encoder_layerdrop}): set it to 0 in its config.json"
        )
    if config.attention == "off":
        return plan
    implementation = getattr(model.config, "_attn_implementation", "eager")
    if implementation not in ("eager", "sdpa"):
        raise UserError(
            f"conditional attention adds to the scores, which attention {implementation!r} cannot; "
            "load the encoder with attn_implementation='sdpa' or 'eager'"
        )
    config.block_width(model.config.hidden_size)
    return plan
