"""A task evaluated without one of its experts; runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.evaluation import metrics
from moe_tasks.evaluation.bootstrap import percentile_interval
from moe_tasks.evaluation.generation import predict
from moe_tasks.model import TaskMoE
from moe_tasks.training.checkpoint import CheckpointStore
from moe_tasks.workspace import Workspace

NUM_BOOTSTRAP = 200
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True)
class Place:
    """An expert: ``index`` is its layer's place in a route."""

    index: int
    stack: str
    layer: int
    expert: int


class Ablation:
    """Evaluates tasks of one trained system with and without an expert.

    Args:
        max_rows: test rows per task; all if ``None``.
    """

    def __init__(self, workspace: Workspace, system: str, max_rows: int | None) -> None:
        self.workspace, self.system, self.max_rows = workspace, system, max_rows

    @cached_property
    def model(self) -> TaskMoE:
        model = self.workspace.model(self.system)
        if not isinstance(model, TaskMoE):
            raise UserError(f"{self.system!r} has no experts")
        return model.eval()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What results depend on besides the place: lines with another one are done again."""
        store = CheckpointStore(self.workspace.folder / "checkpoints" / self.system, 1)
        steps = store.steps()
        return {
            "system": self.system,
            "checkpoint": f"{self.workspace.config.checkpoint}-{steps[-1] if steps else 0}",
            "max_rows": self.max_rows,
        }

    @cached_property
    def routes(self) -> Tensor:
        """``[tasks, layers, experts]``."""
        return self.model.routes().cpu()

    @cached_property
    @torch.no_grad()
    def probabilities(self) -> Tensor:
        """The router's, as ``routes``: what a selection chooses from."""
        return self.model.logits().softmax(-1).transpose(0, 1).cpu()

    def places(self, top: int | None) -> dict[str, list[Place]]:
        """Task -> its experts; with ``top`` only where it is one of an expert's main tasks."""
        found: dict[str, list[Place]] = {task: [] for task in self.model.task_names}
        for index, name in enumerate(self.model.layer_names):
            stack, layer = name.split(".")
            for expert in range(self.routes.shape[-1]):
                users = (self.routes[:, index, expert] > _LEAST_WEIGHT).nonzero()[:, 0].tolist()
                users.sort(key=lambda task: -float(self.probabilities[task, index, expert]))
                for task in users[:top]:
                    place = Place(index, stack, int(layer), expert)
                    found[self.model.task_names[task]].append(place)
        return {task: places for task, places in found.items() if places}

    def without(self, task: int, place: Place) -> Tensor:
        """The task's route ``[layers, experts]`` when an expert is missing."""
        route = self.routes[task].clone()
        weights = route[place.index]
        others = torch.arange(len(weights)) != place.expert
        if len(weights) == 1:
            raise UserError(f"{place.stack} layer {place.layer} has only one expert")
        weights[place.expert] = 0.0
        rest = float(weights.sum())
        if rest > _LEAST_WEIGHT:
            weights /= rest
        else:
            best = self.probabilities[task, place.index].masked_fill(~others, -1).argmax()
            weights.zero_()
            weights[best] = 1.0
        return route

    def rows(self, task: str, places: Sequence[Place]) -> list[dict[str, Any]]:
        """One line per disabled expert, with ``drop`` and its bootstrap 95% interval over rows."""
        data = self.workspace.data
        number = self.model.task_id(task)
        about = data.collection.task(task)
        rows = data.collection.slice(task, "test", data.collection.samples[0])
        rows = rows[: self.max_rows]
        references = data.references(rows)
        whole = self._answers(self.routes[number], rows)
        base = metrics.score(about.metric, whole, references)
        found = []
        for place in places:
            answers = self._answers(self.without(number, place), rows)
            score = metrics.score(about.metric, answers, references)
            low, high = _interval(about.metric, whole, answers, references)
            found.append(
                {
                    **self.identity,
                    "task": task,
                    "category": about.category,
                    "metric": about.metric,
                    "num_rows": len(rows),
                    "stack": place.stack,
                    "layer": place.layer,
                    "expert": place.expert,
                    "weight": float(self.routes[number, place.index, place.expert]),
                    "base": base,
                    "score": score,
                    "drop": base - score,
                    "low": low,
                    "high": high,
                }
            )
        return found

    def _answers(self, route: Tensor, rows: range) -> list[str]:
        data = self.workspace.data
        return predict(
            self.model.squeeze_route(route.to(self.model.step.device)),
            data.tokenizer,
            data.tokens.sources(rows),
            self.workspace.config.generation,
            data.config.max_target,
        )


def _interval(
    metric: str, whole: list[str], answers: list[str], references: list[list[str]]
) -> tuple[float, float]:
    """Of the drop: rows are drawn with replacement, both answers to a row together."""
    if whole == answers:
        return 0.0, 0.0
    rng = np.random.default_rng(0)
    drops = []
    draws = rng.integers(len(references), size=(NUM_BOOTSTRAP, len(references)))
    for drawn in (row.tolist() for row in draws):
        chosen = [references[row] for row in drawn]
        before = metrics.score(metric, [whole[row] for row in drawn], chosen)
        after = metrics.score(metric, [answers[row] for row in drawn], chosen)
        drops.append(before - after)
    return percentile_interval(np.array(drops))
