"""All keys of one run, checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe_tasks import config as configuration
from moe_tasks import registry
from moe_tasks.adaptation import AdaptationConfig
from moe_tasks.conditional.build import HeadsConfig, arrangement
from moe_tasks.data import DataConfig
from moe_tasks.engines.config import EngineConfig
from moe_tasks.engines.layouts import check_experts, check_regularization
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.generation import GenerationConfig
from moe_tasks.evaluation.zeroshot_config import ZeroshotConfig
from moe_tasks.systems import ExpertsConfig, RouterConfig, SystemConfig
from moe_tasks.training.config import TrainingConfig


@dataclass(frozen=True)
class LoggingConfig:
    """Attributes:
    progress: whether to show progress on the screen.
    wandb: ``offline`` writes into the run folder, ``online`` uploads, ``disabled`` does nothing.
    project: name of the wandb project.
    report: whether a run ends with a page about its routes (``report/report.html``).
    """

    progress: bool = True
    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str = "moe_tasks"
    report: bool = True


@dataclass(frozen=True)
class RunConfig:
    """All keys of one run. Groups of parts stay mappings here; the registry knows their fields.

    Attributes:
        name: of the experiment.
        seed: of initial weights, training order, noise and adaptation.
        systems: what is compared, by name.
        zeroshot: whether and how unseen tasks are evaluated without examples after training.
        checkpoint: which weights are adapted and scored: ``last`` or ``best`` (lowest loss).
        dev_rows: rows per task of the evaluation during training.
        device: ``auto`` is the first GPU if there is one.
        num_threads: CPU threads of the main process; ``None`` leaves torch's choice.
    """

    name: str
    seed: int
    tasks: dict[str, Any]
    backbone: dict[str, Any]
    selection: dict[str, Any]
    task_vectors: dict[str, Any]
    sampling: dict[str, Any]
    systems: dict[str, SystemConfig]
    data: DataConfig = field(default_factory=DataConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    zeroshot: ZeroshotConfig | None = None
    checkpoint: Literal["last", "best"] = "last"
    dev_rows: int = 16
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if not self.systems:
            raise ValueError("'systems' is empty: name at least one, e.g. +systems.moe={}")

    @staticmethod
    def parse(values: Mapping[str, Any]) -> RunConfig:
        """Checked configuration; every part of every group is built once to check its keys."""
        systems = values.get("systems")
        if isinstance(systems, Mapping):  # null takes one out that another file has put in
            systems = {name: keys for name, keys in systems.items() if keys is not None}
            values = {**values, "systems": systems}
        config = configuration.from_mapping(RunConfig, values)
        for group in ("tasks", "backbone", "selection", "task_vectors", "sampling"):
            configuration.part(group, getattr(config, group))
        for name, system in config.systems.items():
            try:
                arrangement(system.conditional)
                configuration.part("sampling", config.sampling_of(name))
                config.check_routing(name, system)
            except UserError as error:
                own = system.router or system.selection or system.task_vectors
                own = own or system.conditional or system.sampling
                raise UserError(f"systems.{name}: {error}" if own else str(error)) from error
        return config

    def check_routing(self, name: str, system: SystemConfig) -> None:
        """Raises ``UserError`` where a routed system's parts do not fit together."""
        if system.model == "dense":
            return
        router = system.router_over(self.router)
        registry.lookup("router", router.name)
        selection = configuration.part("selection", system.selection_over(self.selection))
        selection.fixed_routes(1, 1, router.num_experts, 0)
        check_experts(self.engine.expert_parallel, router.num_experts, selection)
        check_regularization(self.engine.expert_parallel, self.training.expert_regularization)
        configuration.part("task_vectors", self.task_vectors_of(name))
        if system.routes_from is not None:
            earlier = list(self.systems)[: list(self.systems).index(name)]
            trained = [n for n in earlier if self.systems[n].model == "moe"]
            if system.routes_from not in trained:
                raise UserError(
                    f"'systems.{name}.routes_from' is {system.routes_from!r}, which is no routed "
                    f"system named before it; {nearest(system.routes_from, trained)}"
                )

    def sampling_of(self, name: str) -> dict[str, Any]:
        """Keys of what draws a system's batches."""
        return configuration.override(self.sampling, self.systems[name].sampling)

    @property
    def adapts(self) -> bool:
        """Whether the run asks unseen tasks, with or without examples."""
        return self.adaptation.samples != 0 or self.zeroshot is not None

    def task_vectors_of(self, name: str) -> dict[str, Any]:
        """Keys of the task vectors that a system's router reads."""
        system = self.systems[name]
        if system.routes_from in self.systems:
            return self.task_vectors_of(system.routes_from)
        return configuration.override(self.task_vectors, system.task_vectors)
