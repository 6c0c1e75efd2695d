"""A run folder and what it was configured to be; the same in the main process and in workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from moe_tasks import config as configuration
from moe_tasks.adaptation import AdaptationConfig, Adapter
from moe_tasks.backbones import Backbone, load_dense, load_tokenizer
from moe_tasks.data import DataConfig, RunData
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.generation import GenerationConfig
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.routing.vectors import TaskVectors, VectorContext
from moe_tasks.systems import ExpertsConfig, RouterConfig, RoutingParts, SystemConfig
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.training.checkpoint import CheckpointStore, Damaged
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.files import write_text

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class LoggingConfig:
    """Attributes:
    progress: whether to show progress on the screen.
    wandb: ``offline`` writes into the run folder, ``online`` uploads, ``disabled`` does nothing.
    project: name of the wandb project.
    """

    progress: bool = True
    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str = "moe_tasks"


@dataclass(frozen=True)
class RunConfig:
    """All keys of one run. Groups of parts stay mappings here; the registry knows their fields.

    Attributes:
        name: of the experiment.
        seed: of initial weights, training order, noise and adaptation.
        systems: what is compared, by name.
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
    router: RouterConfig = field(default_factory=RouterConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
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
        config = configuration.from_mapping(RunConfig, values)
        for group in ("tasks", "backbone", "selection", "task_vectors", "sampling"):
            configuration.part(group, getattr(config, group))
        return config


class Workspace:
    """A run folder, its configuration and, on demand, everything that follows from them."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config

    @staticmethod
    def open(folder: str | Path) -> Workspace:
        """The workspace of an existing run folder.

        Raises:
            UserError: the folder holds no run.
        """
        folder = Path(folder)
        try:
            values = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{folder} holds no run ({CONFIG_FILE} is missing)") from None
        except yaml.YAMLError as error:
            raise UserError(f"{folder / CONFIG_FILE}: not readable: {error}") from error
        return Workspace(folder, RunConfig.parse(values))

    def claim(self, values: Mapping[str, Any], resume: bool) -> None:
        """Write the configuration into a new run folder, or check it against an older run's.

        Raises:
            UserError: the folder already holds a run and ``resume`` is off, or holds one of
                another configuration.
        """
        file = self.folder / CONFIG_FILE
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        if not file.exists():
            try:
                write_text(file, text)
            except OSError as error:
                raise UserError(f"cannot write to {self.folder}: {error.strerror}") from error
            return
        if not resume:
            raise UserError(
                f"{self.folder} already holds a run; continue it with resume=auto, or choose "
                "another run_dir"
            )
        then = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed = _differences(then, yaml.safe_load(text))
        if changed:
            raise UserError(
                f"{self.folder} holds a run of another configuration: {'; '.join(changed[:4])}. "
                "Give the same values to continue it, or choose another run_dir"
            )

    @cached_property
    def device(self) -> torch.device:
        """Where models are trained and evaluated."""
        wanted = self.config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise UserError("'device' is 'cuda', but torch sees no GPU; give device=cpu")
        gpu = wanted != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if gpu else "cpu")

    @cached_property
    def collection(self) -> TaskCollection:
        collection: TaskCollection = configuration.part("tasks", self.config.tasks).build()
        for role in ("train", "test"):
            if not collection.roles[role]:
                raise UserError(f"the collection has no tasks in role '{role}'")
        return collection

    @cached_property
    def backbone(self) -> Backbone:
        return configuration.part("backbone", self.config.backbone)

    def initial_folder(self, width: int) -> Path:
        """Where the initial dense model of a width lies, with its tokenizer."""
        return self.folder / "checkpoints" / ("initial" if width == 1 else f"initial-x{width}")

    @cached_property
    def data(self) -> RunData:
        """Needs the tokenizer in the initial folder."""
        return RunData(self.collection, load_tokenizer(self.initial_folder(1)), self.config.data)

    @cached_property
    def vectors(self) -> TaskVectors:
        """Source of task vectors, made from the initial weights."""
        context = VectorContext(
            load_dense(self.initial_folder(1)).eval().to(self.device),  # type: ignore[arg-type]
            self.data.texts,
            self.data.pad_token_id,
            self.config.seed,
        )
        return configuration.part("task_vectors", self.config.task_vectors).build(context)

    @cached_property
    def _training_vectors(self) -> Tensor:
        return self.vectors.fit(self.data.train_tasks)

    def routing_parts(self) -> RoutingParts:
        """What routed systems are made of."""
        return RoutingParts(
            router=self.config.router,
            experts=self.config.experts,
            selection=self.config.selection,
            vectors=self._training_vectors,
            learn_vectors=self.vectors.learn,
        )

    def model(self, name: str) -> MultiTaskModel:
        """A system's model as training left it (``direct``: the initial weights).

        Raises:
            UserError: no such system, or its checkpoint is missing or damaged.
        """
        systems = self.config.systems
        if name not in systems:
            raise UserError(f"unknown system {name!r}; {nearest(name, systems)}")
        if not systems[name].train:
            dense = load_dense(self.initial_folder(systems[name].width))
            return DenseModel(dense, self.data.train_tasks).eval().to(self.device)
        store = CheckpointStore(self.folder / "checkpoints" / name, self.config.training.keep)
        try:
            steps = store.steps()
            last = store.verify(steps[-1]) if steps else None
            found = store.best() if self.config.checkpoint == "best" else last
        except Damaged as error:
            raise UserError(str(error)) from None
        if found is None:
            raise UserError(f"{store.folder} has no {self.config.checkpoint} checkpoint")
        return MultiTaskModel.load(found.path).to(self.device)

    def adapter(self, system: str) -> Adapter:
        """What adapts a trained system to unseen tasks."""
        return self.adapter_of(self.model(system))

    def adapter_of(self, model: MultiTaskModel) -> Adapter:
        """What adapts ``model`` to unseen tasks."""
        if self.config.adaptation.route_from == "vector":
            _ = self._training_vectors  # placing uses what fitting found
        return Adapter(
            model,
            self.data,
            self.config.adaptation,
            self.config.generation,
            self.config.seed,
            self.vectors if self.config.adaptation.route_from == "vector" else None,
        )


def _differences(then: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for key in dict.fromkeys((*then, *now))
            if f"{where}{key}".split(".")[0] != "logging"
            for line in _differences(then.get(key), now.get(key), f"{where}{key}.")
        ]
    return [] if then == now else [f"{where[:-1]} was {then!r} and is {now!r}"]
