"""A run folder and what it was configured to be; the same in the main process and in workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoConfig

from moe_tasks import config as configuration
from moe_tasks.adaptation import Adapter
from moe_tasks.backbones import Backbone, is_encoder, load_dense, load_tokenizer
from moe_tasks.data import RunData, training_rows
from moe_tasks.errors import UserError, nearest
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.representations.base import TaskVectors, VectorContext
from moe_tasks.representations.computed import fitted_source
from moe_tasks.representations.prompt import Prompts, offered
from moe_tasks.run_config import RunConfig
from moe_tasks.systems import RoutingParts
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.training.checkpoint import Checkpoint, CheckpointStore, Damaged
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.files import write_text

CONFIG_FILE = "config.yaml"
_MAY_CHANGE = ("logging", "engine")  # from one start of a run to the next


class Workspace:
    """A run folder, its configuration and, on demand, everything that follows from them."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        self._sources: dict[str, tuple[TaskVectors, Tensor]] = {}

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

        A key that the older run does not name, because it is newer, had its default.

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
        then = Workspace.open(self.folder).config
        changed = _differences(asdict(then), asdict(self.config))
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
            if not collection.roles[role] and (role == "train" or self.config.adapts):
                hint = "; adaptation.samples=0 does without" if role == "test" else ""
                raise UserError(f"the collection has no tasks in role '{role}'{hint}")
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
        tokenizer = load_tokenizer(self.initial_folder(1))
        return RunData(self.collection, tokenizer, self.config.data, self.is_encoder)

    @cached_property
    def is_encoder(self) -> bool:
        """Whether the backbone is an encoder, which gets a head for every task."""
        return is_encoder(AutoConfig.from_pretrained(self.initial_folder(1)))

    def tasks_of(self, system: str) -> tuple[str, ...]:
        """The training tasks that a system learns.

        Raises:
            UserError: it names one that is no training task.
        """
        own, known = self.config.systems[system].tasks, self.data.train_tasks
        for task in own or ():
            if task not in known:
                raise UserError(f"'systems.{system}.tasks': no {task!r}; {nearest(task, known)}")
        return own or known

    def training_pools(self, system: str) -> dict[str, list[int]]:
        """Training task -> its row numbers, of the tasks that a system learns."""
        return {task: training_rows(self.collection, task) for task in self.tasks_of(system)}

    def training(self, system: str) -> TrainingConfig:
        """How a system trains, with the steps that ``training.epochs`` asks for."""
        training = self.config.systems[system].training(self.config.training)
        if training.epochs is None:
            return training
        pools = self.training_pools(system)
        sampling = configuration.part("sampling", self.config.sampling_of(system))
        per_step = sampling.batch_size(len(pools)) * training.accumulation
        steps = round(training.epochs * sum(map(len, pools.values())) / per_step)
        return replace(training, epochs=None, steps=max(1, steps))

    def vectors(self, system: str) -> TaskVectors:
        """Source of a system's task vectors, made from the initial weights."""
        return self._fitted_vectors(system)[0]

    def _fitted_vectors(self, system: str) -> tuple[TaskVectors, Tensor]:
        values, tasks = self.config.task_vectors_of(system), self.tasks_of(system)
        key = json.dumps([values, tasks], sort_keys=True)
        if key not in self._sources:
            self._sources[key] = fitted_source(
                values, self.vector_context, tasks, self._cells_to_place()
            )
        return self._sources[key]

    @cached_property
    def vector_context(self) -> VectorContext:
        """What task vectors are made from: the initial weights and the tasks' examples."""
        return VectorContext(
            load_dense(self.initial_folder(1)).eval().to(self.device),  # type: ignore[arg-type]
            self.data.texts,
            self.data.pad_token_id,
            self.config.seed,
            self.data.raw_texts,
            self.folder / "task_vectors",
            self.config.logging.progress,
            Prompts(self.collection, self.data.tokenizer, self.config.data.max_source),
        )

    def _cells_to_place(self) -> list[tuple[str, str]]:
        adaptation = self.config.adaptation
        if adaptation.route_from != "vector":
            return []
        dev = self.data.unseen_cells("dev", 1)
        test = self.data.unseen_cells("test", adaptation.samples)
        return [*dev, *test]

    def routing_parts(self, name: str) -> RoutingParts:
        """What a routed system is made of; ``routes_from`` must have been trained before."""
        system = self.config.systems[name]
        source, vectors = self._fitted_vectors(name)
        stage = system.routes_from and self.model(system.routes_from)
        return RoutingParts(
            router=system.router_over(self.config.router),
            experts=self.config.experts,
            selection=self.annealed(name, system.selection_over(self.config.selection)),
            vectors=vectors,
            learn_vectors=source.learn,
            source=stage if isinstance(stage, TaskMoE) else None,
            choices=offered(source, self.tasks_of(name)),
        )

    def annealed(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Selection keys with the annealing rate that fits the length of a system's training."""
        steps = self.training(name).steps
        over = configuration.part("selection", values).over(steps)
        schedule = getattr(over, "temperature_schedule", None)
        if schedule is None:
            return dict(values)
        return {**values, "temperature_schedule": vars(schedule).copy()}

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
        return MultiTaskModel.load(self.checkpoint(name).path).to(self.device)

    def checkpoint_step(self, name: str) -> int:
        """Optimizer step of the weights that :meth:`model` loads; ``UserError`` as there."""
        systems = self.config.systems
        if name not in systems:
            raise UserError(f"unknown system {name!r}; {nearest(name, systems)}")
        return self.checkpoint(name).step if systems[name].train else 0

    def checkpoint(self, name: str) -> Checkpoint:
        """Where the weights that :meth:`model` loads lie; ``UserError`` as there."""
        store = CheckpointStore(self.folder / "checkpoints" / name, self.config.training.keep)
        try:
            steps = store.steps()
            last = store.verify(steps[-1]) if steps else None
            found = store.best() if self.config.checkpoint == "best" else last
        except Damaged as error:
            raise UserError(str(error)) from None
        if found is None:
            raise UserError(f"{store.folder} has no {self.config.checkpoint} checkpoint")
        return found

    def adapter(self, system: str, model: MultiTaskModel | None = None) -> Adapter:
        """What adapts a system to unseen tasks: ``model``, or as training left it."""
        by_vector = self.config.adaptation.route_from == "vector"
        routed = self.config.systems[system].model == "moe"
        return Adapter(
            self.model(system) if model is None else model,
            self.data,
            self.config.adaptation,
            self.config.generation,
            self.config.seed,
            self.vectors(system) if by_vector and routed else None,
        )


def _differences(then: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return [
            line
            for key in dict.fromkeys((*then, *now))
            if f"{where}{key}".split(".")[0] not in _MAY_CHANGE
            for line in _differences(then.get(key), now.get(key), f"{where}{key}.")
        ]
    return [] if then == now else [f"{where[:-1]} was {then!r} and is {now!r}"]
