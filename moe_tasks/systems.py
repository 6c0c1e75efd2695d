"""Systems: what one run compares. Each is a model made from the same initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks.adaptation import AdaptationConfig
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.training.config import TrainingConfig

Routes = Literal["learned", "random", "untrained", "category", "average"]


@dataclass(frozen=True)
class SystemConfig:
    """Attributes:
    model: ``dense`` (one set of weights) or ``moe`` (experts).
    train: whether it sees the training tasks at all (``direct`` does not).
    routes: ``learned``; or fixed while the experts train: ``random`` per task, those of the
        ``untrained`` router, one route per human ``category``; or ``average`` of all experts.
    length: training steps as a multiple of ``training.steps``.
    width: layer parameters as a multiple of the backbone's (dense, backbone from scratch).
    rate: learning rates, in training and in the adaptation grid, as a multiple of the run's: a
        wider model wants lower ones.
    """

    model: Literal["dense", "moe"] = "moe"
    train: bool = True
    routes: Routes = "learned"
    length: float = 1.0
    width: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.length <= 0 or self.rate <= 0 or self.width < 1:
            raise ValueError("'length' and 'rate' must be above 0 and 'width' at least 1")
        if self.model == "moe" and self.width != 1:
            raise ValueError("'width' is for dense systems; experts set the size of the others")

    def training(self, base: TrainingConfig) -> TrainingConfig:
        """How this system trains in a run whose training is ``base``."""
        return replace(
            base,
            steps=max(1, round(base.steps * self.length)),
            learning_rate=base.learning_rate * self.rate,
        )

    def adaptation(self, base: AdaptationConfig) -> AdaptationConfig:
        """How this system adapts in a run whose adaptation is ``base``."""
        rates = tuple(rate * self.rate for rate in base.learning_rates)
        return replace(base, learning_rates=rates)


@dataclass(frozen=True)
class RouterConfig:
    """Attributes:
    name: a registered router.
    num_experts: m, versions of each routed layer.
    hidden_dim: width inside the router.
    """

    name: str = "linear_layer_specific"
    num_experts: int = 3
    hidden_dim: int = 64

    def __post_init__(self) -> None:
        for key in ("num_experts", "hidden_dim"):
            if getattr(self, key) < 1:
                raise ValueError(f"'{key}' is {getattr(self, key)}; it must be at least 1")


@dataclass(frozen=True)
class ExpertsConfig:
    """Attributes:
    name: granularity, which leaves of a layer exist m times.
    noise: standard deviation of the noise on every expert's copy of the dense layer.
    layers_without_experts: names such as ``encoder.0``.
    """

    name: str = "layer"
    noise: float = 1e-8
    layers_without_experts: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoutingParts:
    """What a routed system is made of, besides its initial weights."""

    router: RouterConfig
    experts: ExpertsConfig
    selection: Mapping[str, Any]
    vectors: Tensor
    learn_vectors: bool


def build_system(
    system: SystemConfig,
    dense: PreTrainedModel,
    tasks: Sequence[str],
    categories: Sequence[str],
    parts: RoutingParts,
    seed: int,
) -> MultiTaskModel:
    """The untrained model of a system around ``dense``, which it takes over.

    Args:
        tasks, categories: training tasks and the human category of each.
    """
    torch.manual_seed(seed)
    if system.model == "dense":
        return DenseModel(dense, tasks)
    model = _routed(dense, tasks, parts)
    if system.routes == "learned":
        return model
    if system.routes == "average":
        model.use_selection({"name": "average"})
        model.router.requires_grad_(False)
        model.task_vectors.requires_grad_(False)
        return model
    num_layers, m = len(model.layer_names), parts.router.num_experts
    if system.routes == "untrained":
        experts = model.routes().argmax(-1)
    else:
        experts = _drawn_experts(system.routes, categories, num_layers, m, seed)
    model.fix_routes(torch.nn.functional.one_hot(experts, m).float())
    return model


def _routed(dense: PreTrainedModel, tasks: Sequence[str], parts: RoutingParts) -> TaskMoE:
    return TaskMoE.from_backbone(
        dense,
        tasks,
        parts.router.num_experts,
        parts.experts.name,
        parts.router.name,
        parts.selection,
        parts.vectors,
        learn_task_vectors=parts.learn_vectors,
        hidden_dim=parts.router.hidden_dim,
        layers_without_experts=parts.experts.layers_without_experts,
        noise=parts.experts.noise,
    )


def _drawn_experts(
    routes: Routes, categories: Sequence[str], num_layers: int, m: int, seed: int
) -> Tensor:
    """Experts ``[tasks, layers]``: drawn per task, or per category (kept apart where m allows)."""
    generator = torch.Generator().manual_seed(seed)
    if routes == "random":
        return torch.randint(m, (len(categories), num_layers), generator=generator)
    known = sorted(set(categories))
    per_layer = [
        torch.randperm(max(m, len(known)), generator=generator) % m for _ in range(num_layers)
    ]
    table = torch.stack(per_layer, -1)  # [categories, layers]
    return table[[known.index(category) for category in categories]]
