"""Systems: what one run compares. Each is a model made from the same initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks import config as configuration
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
    routes_from: an earlier system whose trained router and task vectors this one takes over,
        frozen, with fresh experts: the second stage of two (2205.12701, section 5.3).
    router, selection, task_vectors: keys in which the system differs from the run's.
    length: training steps as a multiple of ``training.steps``.
    width: layer parameters as a multiple of the backbone's (dense, backbone from scratch).
    rate: learning rates, in training and in the adaptation grid, as a multiple of the run's: a
        wider model wants lower ones.
    """

    model: Literal["dense", "moe"] = "moe"
    train: bool = True
    routes: Routes = "learned"
    routes_from: str | None = None
    router: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    task_vectors: dict[str, Any] = field(default_factory=dict)
    length: float = 1.0
    width: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.length <= 0 or self.rate <= 0 or self.width < 1:
            raise ValueError("'length' and 'rate' must be above 0 and 'width' at least 1")
        if self.model == "moe" and self.width != 1:
            raise ValueError("'width' is for dense systems; experts set the size of the others")
        own = [key for key in ("router", "selection", "task_vectors") if getattr(self, key)]
        if self.model == "dense" and (own or self.routes_from is not None):
            raise ValueError(f"'{(own or ['routes_from'])[0]}' is for systems with model=moe")
        if self.routes_from is not None and (self.routes != "learned" or self.router):
            raise ValueError("'routes_from' brings the router with it; leave 'routes' and 'router'")

    def router_over(self, base: RouterConfig) -> RouterConfig:
        """The router of this system in a run whose router is ``base``."""
        return configuration.from_mapping(RouterConfig, {**vars(base), **self.router}, "router")

    def selection_over(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The selection's keys in a run whose selection has the keys ``base``."""
        baseline = {"average": {"name": "average"}, "random": {"name": "random_task"}}
        return configuration.override(base, {**baseline.get(self.routes, {}), **self.selection})

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
    init_std: standard deviation of its initial weights (0.02 published); ``None`` is torch's own.
    """

    name: str = "linear_layer_specific"
    num_experts: int = 3
    hidden_dim: int = 64
    init_std: float | None = None

    def __post_init__(self) -> None:
        if self.init_std is not None and self.init_std <= 0:
            raise ValueError(f"'init_std' is {self.init_std}; it must be above 0, or null")
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
    source: TaskMoE | None = None  # whose routes to take over
    choices: Tensor | None = None  # [tasks, K, dim] vectors that training draws from


def build_system(
    system: SystemConfig,
    dense: PreTrainedModel,
    tasks: Sequence[str],
    categories: Sequence[str],
    parts: RoutingParts | None,
    seed: int,
) -> MultiTaskModel:
    """The untrained model of a system around ``dense``, which it takes over.

    Args:
        tasks, categories: training tasks and the human category of each.
        parts: of a routed system; ``None`` makes a dense one.
    """
    torch.manual_seed(seed)
    if parts is None:
        return DenseModel(dense, tasks)
    model = _routed(dense, tasks, parts)
    if parts.source is not None:
        model.take_routes(parts.source)
        return model
    num_layers, m = len(model.layer_names), parts.router.num_experts
    fixed = model.selection.fixed_routes(num_layers, len(tasks), m, seed)
    if fixed is not None:
        model.fix_routes(fixed.transpose(0, 1))
        return model
    if not model.selection.differentiable:
        model.router.requires_grad_(False)
        model.task_vectors.requires_grad_(False)
        return model
    if system.routes == "learned":
        return model
    if system.routes == "untrained":
        experts = model.routes().argmax(-1)
    else:
        experts = _by_category(categories, num_layers, m, seed)
    model.fix_routes(torch.nn.functional.one_hot(experts, m).float())
    return model


def _routed(dense: PreTrainedModel, tasks: Sequence[str], parts: RoutingParts) -> TaskMoE:
    model = TaskMoE.from_backbone(
        dense,
        tasks,
        parts.router.num_experts,
        parts.experts.name,
        parts.router.name,
        parts.selection,
        parts.vectors,
        learn_task_vectors=parts.learn_vectors,
        hidden_dim=parts.router.hidden_dim,
        router_init_std=parts.router.init_std,
        layers_without_experts=parts.experts.layers_without_experts,
        noise=parts.experts.noise,
    )
    model.offer_vectors(parts.choices)
    return model


def _by_category(categories: Sequence[str], num_layers: int, m: int, seed: int) -> Tensor:
    """Experts ``[tasks, layers]`` drawn per category, kept apart where m allows."""
    generator = torch.Generator().manual_seed(seed)
    known = sorted(set(categories))
    per_layer = [
        torch.randperm(max(m, len(known)), generator=generator) % m for _ in range(num_layers)
    ]
    table = torch.stack(per_layer, -1)  # [categories, layers]
    return table[[known.index(category) for category in categories]]
