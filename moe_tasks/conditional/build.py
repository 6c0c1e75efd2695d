"""Systems with conditional parts: encoders with heads, and sequence-to-sequence models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from moe_tasks import config as configuration
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.freezing import freeze_layers
from moe_tasks.conditional.heads import HeadConfig
from moe_tasks.conditional.model import CAMTL, Pooling
from moe_tasks.conditional.plans import check_fits
from moe_tasks.conditional.routed import RoutedCAMTL
from moe_tasks.conditional.seq2seq import ConditionalSeq2Seq, RoutedConditionalSeq2Seq
from moe_tasks.errors import UserError, nearest
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.systems import RoutingParts, SystemConfig, build_system, settle_routes

_ARRANGEMENTS = {
    "none": ConditionalConfig.none(),
    "base": ConditionalConfig.base(),
    "large": ConditionalConfig.large(),
}


@dataclass(frozen=True)
class HeadsConfig:
    """Attributes:
    pooling: what a row's head reads: the encoder's own ``pooler``, the ``mean`` of its states or
        the ``first``.
    standardize: regressions learn their numbers' distance from the training rows' mean, in
        standard deviations; as they are (published), GLUE's STS-B has ten times the loss of any
        other task at the start. Predictions are in the labels' own unit either way.
    """

    pooling: Pooling = "pooler"
    standardize: bool = False


def arrangement(values: Mapping[str, Any]) -> ConditionalConfig:
    """Conditional parts by the name of an arrangement and the keys that differ from it.

    Raises:
        UserError: an unknown name or key.
    """
    name = values.get("name", "none")
    if name not in _ARRANGEMENTS:
        raise UserError(f"'conditional.name' is {name!r}; {nearest(str(name), _ARRANGEMENTS)}")
    changes = {key: value for key, value in values.items() if key != "name"}
    known = {**dataclasses.asdict(_ARRANGEMENTS[name]), **changes}
    return configuration.from_mapping(ConditionalConfig, known, "conditional")


def build_encoder(
    system: SystemConfig,
    encoder: PreTrainedModel,
    heads: Mapping[str, HeadConfig],
    categories: Sequence[str],
    parts: RoutingParts | None,
    config: HeadsConfig,
    seed: int,
) -> CAMTL:
    """The untrained model of a system around ``encoder``, which it takes over.

    Args:
        heads: training task -> its head.
        categories: the human category of each of them.
        parts: of a routed system; ``None`` makes one without experts.
    """
    torch.manual_seed(seed)
    conditional, tasks = arrangement(system.conditional), list(heads)
    if parts is None:
        model = CAMTL(encoder, tasks, heads, conditional, pooling=config.pooling)
    else:
        model = RoutedCAMTL(
            encoder,
            tasks,
            parts.spec,
            heads,
            conditional,
            pooling=config.pooling,
            noise=parts.experts.noise,
            task_vectors=parts.vectors,
        )
        settle_routes(model, system, categories, parts, seed)
    if system.freeze_layers is not None:
        freeze_layers(model, system.freeze_layers)
    return model


def build_conditional(
    system: SystemConfig,
    dense: PreTrainedModel,
    tasks: Sequence[str],
    categories: Sequence[str],
    parts: RoutingParts | None,
    seed: int,
) -> MultiTaskModel:
    """The untrained model of a system with conditional parts in the encoder of ``dense``.

    Args: as of :func:`~moe_tasks.systems.build_system`.
    """
    conditional = arrangement(system.conditional)
    make_dense = partial(ConditionalSeq2Seq, config=conditional)
    make_moe = partial(RoutedConditionalSeq2Seq, config=conditional)
    return build_system(system, dense, tasks, categories, parts, seed, make_dense, make_moe)


def check_conditional(system: SystemConfig, dense: PreTrainedModel, is_encoder: bool) -> None:
    """Raises ``UserError`` where a system's conditional parts do not fit its backbone."""
    if system.freeze_layers is not None and not is_encoder:
        raise UserError(
            "'freeze_layers' is for encoders with heads; training.freeze freezes parameters of any "
            "model by name"
        )
    config = arrangement(system.conditional)
    if config.conditional or config.fresh_top_layer:
        check_fits(dense, config)
