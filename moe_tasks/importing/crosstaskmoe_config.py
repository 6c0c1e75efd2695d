"""The ``config.json`` of the published code of 2205.12701, and what it says about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from moe_tasks import config as configuration
from moe_tasks.errors import UserError, nearest
from moe_tasks.model import TaskMoEConfig
from moe_tasks.tasks.reading import read_json

# router_mode -> our selection and a temperature. A checkpoint does not say which temperature
# training ended with: these are the ends of the published schedules.
_SELECTIONS: dict[str, tuple[dict[str, Any], float]] = {
    "softmax": ({"name": "softmax", "mode": "mix"}, 1.0),
    "gumbel_softmax": ({"name": "gumbel", "mode": "mix"}, 0.1),
    "gumbel_softmax_st": ({"name": "gumbel_st", "gradient": "exact"}, 0.1),
}
_ROUTERS = tuple(
    kind + end
    for kind in ("linear", "rnn", "lstm", "gru", "transformer")
    for end in ("", "_layer_specific")
)
_NOT_OF_THE_MODEL = {"_name_or_path", "architectures", "dtype", "transformers_version"}


@dataclass
class PublishedConfig:
    """The keys of a published ``config.json`` that an import needs; it has others.

    Attributes:
        router_nn_type: one of the ten published routers.
        router_block_num: experts per layer.
        router_input_dim, router_hidden_dim: width of a task vector, and inside the router.
        router_mode: how logits become routes.
        encoder_vanilla_layers, decoder_vanilla_layers: layers without experts.
    """

    router_nn_type: str
    router_block_num: int
    router_input_dim: int
    router_hidden_dim: int
    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int
    router_mode: str = "softmax"
    encoder_vanilla_layers: str | list[int] = ""
    decoder_vanilla_layers: str | list[int] = ""

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self)):
            if isinstance(value := getattr(self, key), int) and value < 1:
                raise ValueError(f"{key!r} is {value}; it must be at least 1")
        for key, valid in (("router_nn_type", _ROUTERS), ("router_mode", _SELECTIONS)):
            value = getattr(self, key)
            if value not in valid:
                raise ValueError(f"unknown {key} {value!r}; {nearest(value, valid)}")
        if self.encoder_layers != self.decoder_layers:
            raise ValueError(
                f"'encoder_layers' is {self.encoder_layers} and 'decoder_layers' is "
                f"{self.decoder_layers}: the published code builds both stacks with the encoder's "
                "depth and cannot have written such a model"
            )
        if len(self.layers_without_experts()) == len(self.layers()):
            raise ValueError("every layer is without experts: there is nothing to route")

    def layers(self) -> list[str]:
        """Layers of both stacks, in the router's order."""
        return [f"{s}.{i}" for s in ("encoder", "decoder") for i in range(self.encoder_layers)]

    def layers_without_experts(self) -> tuple[str, ...]:
        """Those of :meth:`layers` that exist once."""
        named = {f"encoder.{number}" for number in _numbers("encoder", self.encoder_vanilla_layers)}
        named |= {
            f"decoder.{number}" for number in _numbers("decoder", self.decoder_vanilla_layers)
        }
        return tuple(layer for layer in self.layers() if layer in named)

    def spec(self) -> TaskMoEConfig:
        """What builds our model."""
        selection, temperature = _SELECTIONS[self.router_mode]
        schedule = {"start": temperature, "end": temperature, "rate": 0.0}
        return TaskMoEConfig(
            num_experts=self.router_block_num,
            router=self.router_nn_type,
            hidden_dim=self.router_hidden_dim,
            selection={**selection, "temperature_schedule": schedule},
            task_dim=self.router_input_dim,
            layers_without_experts=self.layers_without_experts(),
        )


def _numbers(stack: str, value: str | list[int]) -> list[int]:
    try:
        return [int(n) for n in (value.split(",") if isinstance(value, str) and value else value)]
    except ValueError:
        raise ValueError(
            f"'{stack}_vanilla_layers' is {value!r}; expected layer numbers such as '0,1'"
        ) from None


def read_config(
    path: Path, router_mode: str | None
) -> tuple[PublishedConfig, dict[str, Any], dict[str, torch.Size]]:
    """The routing keys, all keys, and the shapes of the plain BART model's weights by name.

    Args:
        router_mode: replaces the file's, unless ``None``.

    Raises:
        UserError: a key is missing or has a wrong value; names the file and the key.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values")
    if router_mode is not None:
        values["router_mode"] = router_mode
    own = {f.name: values[f.name] for f in fields(PublishedConfig) if f.name in values}
    try:
        config = configuration.from_mapping(PublishedConfig, own)
        with torch.device("meta"):  # sizes are not to be trusted with memory yet
            weights = plain_bart(values).state_dict()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # transformers refuses values in many ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: no BART model: {type(error).__name__}: {reason}") from error
    return config, values, {name: tensor.shape for name, tensor in weights.items()}


def plain_bart(values: Mapping[str, Any]) -> BartForConditionalGeneration:
    """The dense model of these sizes, weights random, with whatever they say about generation."""
    model = BartForConditionalGeneration(BartConfig(**_known(values, BartConfig())))
    model.generation_config = GenerationConfig(**_known(values, GenerationConfig()))
    return model


def _known(values: Mapping[str, Any], config: Any) -> dict[str, Any]:
    known = config.to_dict().keys() - _NOT_OF_THE_MODEL
    return {key: value for key, value in values.items() if key in known}
