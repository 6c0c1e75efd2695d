"""A task evaluated without one of its experts, or one of each layer; runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

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
_Removed = TypeVar("_Removed", "Place", "Group")


@dataclass(frozen=True)
class Place:
    """An expert: ``index`` is its layer's place in a route."""

    index: int
    stack: str
    layer: int
    expert: int


@dataclass(frozen=True)
class Group:
    """One expert of every layer: ``experts [layers]``; ``name`` tells groups of a run apart."""

    name: str
    experts: tuple[int, ...]


class Ablation:
    """Evaluates tasks of one trained system with and without experts.

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

    def where(self, index: int) -> tuple[str, int]:
        """Stack and number of a layer by its place in a route."""
        stack, layer = self.model.layer_names[index].split(".")
        return stack, int(layer)

    def places(self, top: int | None) -> dict[str, list[Place]]:
        """Task -> its experts; with ``top`` only where it is one of an expert's main tasks."""
        layers, experts = self.routes.shape[1:]
        places = [Place(i, *self.where(i), e) for i in range(layers) for e in range(experts)]
        return self._by_task(places, top)

    def groups(self, num_random: int, top: int | None) -> dict[str, list[Group]]:
        """Task -> groups that it uses: expert e of every layer for each e, and random ones."""
        layers, experts = self.routes.shape[1:]
        named = [Group(f"expert {e} of every layer", (e,) * layers) for e in range(experts)]
        known = {group.experts for group in named}
        rng = np.random.default_rng(0)
        count = min(num_random, experts**layers - len(known))
        drawn: list[Group] = []
        while len(drawn) < count:
            group = Group(
                f"random {len(drawn)}", tuple(rng.integers(experts, size=layers).tolist())
            )
            if group.experts not in known:
                known.add(group.experts)
                drawn.append(group)
        return self._by_task([*named, *drawn], top)

    def _by_task(self, removals: Sequence[_Removed], top: int | None) -> dict[str, list[_Removed]]:
        found: dict[str, list[_Removed]] = {task: [] for task in self.model.task_names}
        for removed in removals:
            users = (self._at(self.routes, removed) > _LEAST_WEIGHT).nonzero()[:, 0].tolist()
            main = self._at(self.probabilities, removed)
            for task in sorted(users, key=lambda task: -float(main[task]))[:top]:
                found[self.model.task_names[task]].append(removed)
        return {task: places for task, places in found.items() if places}

    @staticmethod
    def _at(routes: Tensor, removed: Place | Group) -> Tensor:
        """``[tasks]``: what each task has of the experts, summed over layers."""
        if isinstance(removed, Place):
            return routes[:, removed.index, removed.expert]
        return routes[:, torch.arange(len(removed.experts)), list(removed.experts)].sum(1)

    def without(self, task: int, removed: Place | Group) -> Tensor:
        """The task's route ``[layers, experts]`` when experts are missing."""
        route = self.routes[task].clone()
        pairs = (
            [(removed.index, removed.expert)]
            if isinstance(removed, Place)
            else enumerate(removed.experts)
        )
        for index, expert in pairs:
            self._take(route[index], expert, self.probabilities[task, index], index)
        return route

    def _take(self, weights: Tensor, expert: int, probabilities: Tensor, index: int) -> None:
        """In place: the others take over, or the most probable other one."""
        if len(weights) == 1:
            stack, layer = self.where(index)
            raise UserError(f"{stack} layer {layer} has only one expert")
        weights[expert] = 0.0
        rest = float(weights.sum())
        if rest > _LEAST_WEIGHT:
            weights /= rest
        else:
            others = torch.arange(len(weights)) != expert
            weights.zero_()
            weights[probabilities.masked_fill(~others, -1).argmax()] = 1.0

    def about(self, task: str, removed: Place | Group) -> dict[str, Any]:
        """What a line says of the experts; ``weight`` is what the task has of them."""
        weight = float(self._at(self.routes, removed)[self.model.task_id(task)])
        if isinstance(removed, Group):
            return {"group": removed.name, "experts": list(removed.experts), "weight": weight}
        return {
            "stack": removed.stack,
            "layer": removed.layer,
            "expert": removed.expert,
            "weight": weight,
        }

    def rows(self, task: str, removals: Sequence[Place | Group]) -> list[dict[str, Any]]:
        """One line per removal, with ``drop`` and its bootstrap 95% interval over rows."""
        data = self.workspace.data
        number = self.model.task_id(task)
        about = data.collection.task(task)
        rows = data.collection.slice(task, "test", data.collection.samples[0])
        rows = rows[: self.max_rows]
        references = data.references(rows)
        answered: dict[bytes, list[str]] = {}  # groups often leave a task the same route

        def answers(route: Tensor) -> list[str]:
            key = route.numpy().tobytes()
            if key not in answered:
                answered[key] = self._answers(task, route, rows)
            return answered[key]

        whole = answers(self.routes[number])
        base = metrics.score(about.metric, whole, references)
        found = []
        for removed in removals:
            changed = answers(self.without(number, removed))
            score = metrics.score(about.metric, changed, references)
            low, high = _interval(about.metric, whole, changed, references)
            found.append(
                {
                    **self.identity,
                    "task": task,
                    "category": about.category,
                    "metric": about.metric,
                    "num_rows": len(rows),
                    **self.about(task, removed),
                    "base": base,
                    "score": score,
                    "drop": base - score,
                    "low": low,
                    "high": high,
                }
            )
        return found

    def _answers(self, task: str, route: Tensor, rows: range) -> list[str]:
        data = self.workspace.data
        plain = self.model.squeeze_route(route.to(self.model.step.device))
        return predict(
            self.model.conditioned(plain, task),
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
