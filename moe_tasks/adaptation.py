"""Few-shot adaptation: one unseen task, one few-shot sample, a small grid of rates and sizes.

The published protocol (2205.12701, section 4): every point of the grid starts from the same
weights, is evaluated on the sample's dev rows now and then, and its best weights there give the
point's test score; the point with the best dev score gives the sample's.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from transformers import PreTrainedModel

from moe_tasks.conditional.conditioned import Conditioned
from moe_tasks.data import RunData
from moe_tasks.evaluation import metrics
from moe_tasks.evaluation.generation import GenerationConfig, predict
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel, MultiTaskModel
from moe_tasks.representations.base import TaskVectors
from moe_tasks.tasks.base import Split
from moe_tasks.tasks.sampling import UniformSampling
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import TrainBatches
from moe_tasks.training.loss import token_loss
from moe_tasks.training.trainer import Trainer


@dataclass(frozen=True)
class AdaptationConfig:
    """Attributes:
    samples: how many few-shot samples of each unseen task; ``None`` is all, 0 adapts to none.
    learning_rates, batch_sizes: the grid.
    steps, eval_every, warmup, weight_decay, clip, label_smoothing: as in training.
    schedule: of the learning rate.
    route_from: where an unseen task's route starts: ``vector`` gives its examples' task vector to
        the router; ``best_route`` takes the training task's route with the lowest loss on them.
    condition_from: where an unseen task's embedding starts, in systems with ``conditional`` parts:
        that of the ``best_task`` (the training task whose own model, route included, has the lowest
        loss on the examples) or the ``mean`` of all. It and the parts go on learning.
    learn_route: whether the route goes on learning (all experts stay in memory then).
    router_learning_rate, task_vectors_learning_rate: rates of that learning.
    workers: processes side by side; ``None`` is one per core, at most 8. Where a launcher has
        started several, those share the work instead.
    """

    samples: int | None = None
    learning_rates: tuple[float, ...] = (1e-5, 2e-5, 5e-5)
    batch_sizes: tuple[int, ...] = (2, 4, 8)
    steps: int = 1000
    eval_every: int = 100
    warmup: float = 0.1
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.01
    clip: float | None = 0.1
    label_smoothing: float = 0.0
    route_from: Literal["vector", "best_route"] = "best_route"
    condition_from: Literal["best_task", "mean"] = "best_task"
    learn_route: bool = False
    router_learning_rate: float = 1e-3
    task_vectors_learning_rate: float = 1e-2
    workers: int | None = None

    def __post_init__(self) -> None:
        for key, least in (("samples", 0), ("workers", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise ValueError(f"'{key}' is {value}; it must be at least {least}")
        if not self.learning_rates or not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError("'learning_rates' and 'batch_sizes' need at least one value above 0")
        self.training(self.learning_rates[0])

    def training(self, learning_rate: float) -> TrainingConfig:
        """How one point trains."""
        return TrainingConfig(
            steps=self.steps,
            learning_rate=learning_rate,
            router_learning_rate=self.router_learning_rate if self.learn_route else 0.0,
            task_vectors_learning_rate=self.task_vectors_learning_rate,
            weight_decay=self.weight_decay,
            clip=self.clip,
            warmup=self.warmup,
            schedule=self.schedule,
            label_smoothing=self.label_smoothing,
            eval_every=self.eval_every,
            save_every=None,
            log_every=10**9,
        )

    def grid(self) -> Iterator[tuple[float, int]]:
        """Points: (learning rate, batch size)."""
        for rate in self.learning_rates:
            for size in self.batch_sizes:
                yield rate, size


@dataclass(frozen=True)
class Cell:
    """One system adapted to one few-shot sample of one unseen task."""

    system: str
    task: str
    sample: str


@dataclass(frozen=True)
class PointResult:
    """One grid point.

    Attributes:
        dev, test: scores of the weights that were best on dev.
        best_step: their step.
        placed_on: training task whose route or embedding was taken over; empty if neither was.
        seconds: wall time.
    """

    system: str
    task: str
    sample: str
    learning_rate: float
    batch_size: int
    dev: float
    test: float
    best_step: int
    placed_on: str
    seconds: float


@dataclass
class Adapter:
    """Adapts one system's model to unseen tasks.

    Args:
        model: the trained system; never changed.
        vectors: source of task vectors, fitted on the training tasks, for routed systems.
    """

    model: MultiTaskModel
    data: RunData
    config: AdaptationConfig
    generation: GenerationConfig
    seed: int
    vectors: TaskVectors | None = None
    _start: tuple[tuple[str, str], MultiTaskModel, str] | None = field(default=None, init=False)

    def run(self, cell: Cell, learning_rate: float, batch_size: int) -> PointResult:
        """Train and score one grid point of ``cell``."""
        began = time.perf_counter()
        start, placed_on = self._start_of(cell)
        model = copy.deepcopy(start)
        rows = self._rows(cell, "train")
        sampling = UniformSampling(tasks_per_batch=1, rows_per_task=min(batch_size, len(rows)))
        seed = _seed(self.seed, cell.task, cell.sample, learning_rate, batch_size)
        batches = TrainBatches(
            sampling.build({cell.task: rows}, seed),
            self.data.tokens,
            model.task_names,
            self.data.pad_token_id,
        )
        trainer = Trainer(
            model,
            self.config.training(learning_rate),
            batches,
            None,
            system=cell.system,
            evaluate=lambda m: self._evaluate(m, cell),  # type: ignore[arg-type]
            seed=seed,
        )
        result = trainer.fit()
        trainer.restore_best()
        best = result.best_step or result.step
        dev = next(h["score"] for h in result.history if h["step"] == best)
        return PointResult(
            **asdict(cell),
            learning_rate=learning_rate,
            batch_size=batch_size,
            dev=dev,
            test=self._score(model.squeeze(cell.task), cell, "test"),
            best_step=best,
            placed_on=placed_on,
            seconds=round(time.perf_counter() - began, 3),
        )

    def _start_of(self, cell: Cell) -> tuple[MultiTaskModel, str]:
        key = (cell.task, cell.sample)
        if self._start is None or self._start[0] != key:
            self._start = (key, *self.place(cell))
        return self._start[1], self._start[2]

    def place(self, cell: Cell) -> tuple[MultiTaskModel, str]:
        """The model that adaptation of ``cell`` starts from, and the task that it was placed on."""
        model, config = self.model, self.config
        vector = None
        if config.route_from == "vector" and self.vectors is not None:
            vector = self.vectors.place(cell.task, cell.sample)
        conditional = isinstance(model, Conditioned) and config.condition_from == "best_task"
        by_route = isinstance(model, TaskMoE) and vector is None
        placed_on = self._best_task(model, cell) if by_route or conditional else ""
        like = placed_on if conditional else None
        if not isinstance(model, TaskMoE):
            plain = copy.deepcopy(model.backbone)
        else:
            if vector is None:
                vector = model.task_vectors[model.task_id(placed_on)].detach()
            if config.learn_route:
                return model.for_task(cell.task, vector, like), placed_on
            plain = model.squeeze_route(model.route_of(vector))
        return DenseModel(model.conditioned(plain, like), [cell.task]), placed_on

    @torch.no_grad()
    def _best_task(self, model: MultiTaskModel, cell: Cell) -> str:
        """The training task whose model has the lowest loss on the sample's train rows."""
        rows = self._rows(cell, "train")
        batch = self.data.collate(rows, next(model.parameters()).device)
        losses = {}
        for task in _distinct(model):
            ids = torch.full((len(rows),), model.task_id(task))
            losses[task] = float(token_loss(model(**batch, task_ids=ids).logits, batch["labels"]))
        return min(losses, key=losses.__getitem__)

    def _evaluate(self, model: MultiTaskModel, cell: Cell) -> Mapping[str, float]:
        plain = model.squeeze(cell.task) if isinstance(model, TaskMoE) else model.backbone
        score = self._score(plain, cell, "dev")
        return {"loss": -score, "score": score}

    def _score(self, model: PreTrainedModel, cell: Cell, split: Split) -> float:
        rows = self.data.collection.slice(cell.task, split, cell.sample)
        predictions = predict(
            model,
            self.data.tokenizer,
            self.data.tokens.sources(rows),
            self.generation,
            self.data.config.max_target,
        )
        metric = self.data.collection.task(cell.task).metric
        return metrics.score(metric, predictions, self.data.references(rows))

    def _rows(self, cell: Cell, split: Split) -> list[int]:
        return list(self.data.collection.slice(cell.task, split, cell.sample))


def _distinct(model: MultiTaskModel) -> list[str]:
    """One training task per distinct route; all of them where embeddings differ as well."""
    if isinstance(model, Conditioned) or not isinstance(model, TaskMoE):
        return list(model.task_names)
    first: dict[tuple[float, ...], str] = {}
    for task, route in zip(model.task_names, model.routes().flatten(1).tolist(), strict=True):
        first.setdefault(tuple(route), task)
    return list(first.values())


def _seed(*key: object) -> int:
    """The same number for the same key everywhere; systems share it, so that they compare."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:6], "little")
