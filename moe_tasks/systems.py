"""Systems: what one run compares. Each is a model made from the same initial weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks import config as configuration
from moe_tasks.adaptation import AdaptationConfig
from moe_tasks.errors import nearest
from moe_tasks.model import TaskMoE, TaskMoEConfig
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.training.config import TrainingConfig

_GROUPS = ("model", "router", "task_vectors")
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
    router, selection, task_vectors, sampling: keys in which the system differs from the run's.
    conditional: parts of the encoder that depend on the task: ``name`` of an arrangement
        (``base``, ``large``, ``none``) and keys of ``ConditionalConfig`` in which it differs.
    freeze_layers: of encoders with heads, pretrained layers that stay as they are:
        ``lower_half``, or ``0-4``.
    tasks: the training tasks that this system learns; all if ``None``.
    part_of: name under which its scores are listed, for several that are one together, such as
        a model per task.
    length: training steps as a multiple of ``training.steps``.
    width: layer parameters as a multiple of the backbone's (dense, backbone from scratch).
    rate: learning rates, in training and in the adaptation grid, as a multiple of the run's: a
        wider model wants lower ones.
    rates: training rates of single parameter groups (``model``, ``router``, ``task_vectors``) in
        which it differs.
    """

    model: Literal["dense", "moe"] = "moe"
    train: bool = True
    routes: Routes = "learned"
    routes_from: str | None = None
    router: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    task_vectors: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    conditional: dict[str, Any] = field(default_factory=dict)
    freeze_layers: str | None = None
    tasks: tuple[str, ...] | None = None
    part_of: str | None = None
    length: float = 1.0
    width: int = 1
    rate: float = 1.0
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.length <= 0 or self.rate <= 0 or self.width < 1:
            raise ValueError("'length' and 'rate' must be above 0 and 'width' at least 1")
        if self.model == "moe" and self.width != 1:
            raise ValueError("'width' is for dense systems; experts set the size of the others")
        for group in self.rates:
            if group not in _GROUPS:
                raise ValueError(f"'rates' has {group!r}; {nearest(group, _GROUPS)}")
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
        rates = {**base.rates, **self.rates}
        return replace(
            base,
            steps=max(1, round(base.steps * self.length)),
            epochs=base.epochs and base.epochs * self.length,
            learning_rate=rates["model"] * self.rate,
            router_learning_rate=rates["router"],
            task_vectors_learning_rate=rates["task_vectors"],
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

    @property
    def spec(self) -> TaskMoEConfig:
        """How the model is built around its backbone."""
        return TaskMoEConfig(
            num_experts=self.router.num_experts,
            experts=self.experts.name,
            router=self.router.name,
            hidden_dim=self.router.hidden_dim,
            router_init_std=self.router.init_std,
            selection=dict(self.selection),
            task_dim=self.vectors.shape[-1],
            learn_task_vectors=self.learn_vectors,
            layers_without_experts=tuple(self.experts.layers_without_experts),
        )


def build_system(
    system: SystemConfig,
    dense: PreTrainedModel,
    tasks: Sequence[str],
    categories: Sequence[str],
    parts: RoutingParts | None,
    seed: int,
    make_dense: Callable[..., MultiTaskModel] = DenseModel,
    make_moe: Callable[..., TaskMoE] = TaskMoE,
) -> MultiTaskModel:
    """The untrained model of a system around ``dense``, which it takes over.

    Args:
        tasks, categories: training tasks and the human category of each.
        parts: of a routed system; ``None`` makes a dense one.
        make_dense, make_moe: with the arguments of the classes that they are by default.
    """
    torch.manual_seed(seed)
    if parts is None:
        return make_dense(dense, tasks)
    noise, vectors = parts.experts.noise, parts.vectors
    model = make_moe(dense, tasks, parts.spec, noise=noise, task_vectors=vectors)
    settle_routes(model, system, categories, parts, seed)
    return model


def settle_routes(
    model: TaskMoE,
    system: SystemConfig,
    categories: Sequence[str],
    parts: RoutingParts,
    seed: int,
) -> None:
    """Fix the routes of a new model whose system does not learn its own."""
    model.offer_vectors(parts.choices)
    if parts.source is not None:
        model.take_routes(parts.source)
        return
    num_layers, m = len(model.layer_names), parts.router.num_experts
    fixed = model.selection.fixed_routes(num_layers, len(model.task_names), m, seed)
    if fixed is not None:
        model.fix_routes(fixed.transpose(0, 1))
        return
    if not model.selection.differentiable:
        model.router.requires_grad_(False)
        model.task_vectors.requires_grad_(False)
        return
    if system.routes == "learned":
        return
    if system.routes == "untrained":
        experts = model.routes().argmax(-1)
    else:
        experts = _by_category(categories, num_layers, m, seed)
    model.fix_routes(torch.nn.functional.one_hot(experts, m).float())


def _by_category(categories: Sequence[str], num_layers: int, m: int, seed: int) -> Tensor:
    """Experts ``[tasks, layers]`` drawn per category, kept apart where m allows."""
    generator = torch.Generator().manual_seed(seed)
    known = sorted(set(categories))
    per_layer = [
        torch.randperm(max(m, len(known)), generator=generator) % m for _ in range(num_layers)
    ]
    table = torch.stack(per_layer, -1)  # [categories, layers]
    return table[[known.index(category) for category in categories]]
