"""The route of a task without examples: from what its prompt says, from its inputs without labels,
or from the routes of training tasks. A conditional encoder takes the embedding of the training task
whose route was taken, else the mean of all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks.conditional.conditioned import Conditioned
from moe_tasks.errors import UserError
from moe_tasks.evaluation.zeroshot_config import RouteSource
from moe_tasks.experts.convert import squeeze
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.representations.prompt import (
    InputVectors,
    PromptSentenceVectors,
    PromptTaskVectors,
    PromptVectors,
)
from moe_tasks.workspace import Workspace

_KINDS: dict[str, type] = {
    "text": PromptVectors,
    "sentence": PromptSentenceVectors,
    "inputs": InputVectors,
}
_NAMES = {"text": "prompt", "sentence": "prompt_sentence", "inputs": "inputs"}


@dataclass(frozen=True)
class Placed:
    """A task's plain model.

    Attributes:
        source: where the route came from; ``own`` for a training task, ``none`` for dense systems.
        placed_on: training task whose route was taken over, empty otherwise.
        route: the strongest expert of each layer; empty for dense systems.
    """

    model: PreTrainedModel
    source: str
    placed_on: str = ""
    route: tuple[int, ...] = ()


class Placer:
    """Finds routes of unseen tasks in one trained system.

    Args:
        model: the system as training left it.
    """

    def __init__(self, workspace: Workspace, system: str, model: MultiTaskModel) -> None:
        self.workspace, self.system, self.model = workspace, system, model
        self._plain: tuple[Tensor, str, Placed] | None = None

    def place(
        self, task: str, text: str, inputs: Sequence[numpy.ndarray], source: RouteSource
    ) -> Placed:
        """The plain model of a task.

        Args:
            text: what its prompt and description say.
            inputs: token ids of its inputs.
            source: where the route comes from; ``auto`` is what the system's router was trained on,
                else ``nearest``.

        Raises:
            UserError: the system was not trained on vectors of that kind.
        """
        model = self.model
        if not isinstance(model, TaskMoE):
            return self._dense(task, text, source)
        if task in model.task_names:
            return self._squeezed(model.routes()[model.task_id(task)], "own", task)
        if source == "auto":
            source = self._trained_for()
        if source == "average":
            return self._squeezed(model.routes().mean(0), "average")
        if source == "nearest":
            near = self._nearest(text)
            return self._squeezed(model.routes()[model.task_id(near)], "nearest", near)
        vectors = self._vectors_for(source)
        if isinstance(vectors, PromptTaskVectors):
            vector = vectors.place_texts([text])
        else:
            raw = vectors.representation.raw(vectors.context, list(inputs), [])
            vector = vectors.transformation(raw)
        return self._squeezed(model.route_of(vector), source)

    def _dense(self, task: str, text: str, source: RouteSource) -> Placed:
        """The one dense model; with conditional parts, as the task itself, the one with the nearest
        prompt, or the mean of all training tasks."""
        model = self.model
        if not isinstance(model, Conditioned):
            return Placed(model.backbone, "none")
        known = task in model.task_names
        like = task if known else self._nearest(text) if source == "nearest" else ""
        kept = self._plain
        if kept is None or kept[1] != like:
            plain = model.conditioned(copy.deepcopy(model.backbone), like or None).eval()
            found = "own" if known else "nearest" if like else "average"
            self._plain = kept = (torch.empty(0), like, Placed(plain, found, like))
        return kept[2]

    def _trained_for(self) -> RouteSource:
        if not self._fixed:
            kind = type(getattr(self._source, "representation", None))
            for name in ("text", "sentence", "inputs"):
                if kind is _KINDS[name]:
                    return name
        return "nearest"

    @property
    def _fixed(self) -> bool:
        assert isinstance(self.model, TaskMoE)
        return self.model.spec.router == "identity"

    @cached_property
    def _source(self) -> Any:
        return self.workspace.vectors(self.system)

    def _vectors_for(self, source: str) -> Any:
        kind = getattr(self._source, "representation", None)
        if self._fixed or type(kind) is not _KINDS[source]:
            has = "fixed routes" if self._fixed else f"vectors of {type(self._source).__name__}"
            name = self.workspace.config.task_vectors_of(self.system).get("name")
            has = has if self._fixed else f"task_vectors={name}"
            raise UserError(
                f"route={source} needs a system trained with task_vectors={_NAMES[source]}; "
                f"{self.system!r} has {has}: use route=nearest or route=average"
            )
        return self._source

    @cached_property
    def _texts(self) -> tuple[PromptTaskVectors, Tensor]:
        """A source of prompt vectors, and those of the training tasks."""
        source = self._source
        if not isinstance(source, PromptTaskVectors):
            source = PromptVectors().build(self.workspace.vector_context)
        return source, source.fit(self.model.task_names)

    def _nearest(self, text: str) -> str:
        source, known = self._texts
        near = torch.cosine_similarity(source.place_texts([text])[None], known)
        return self.model.task_names[int(near.argmax())]

    def _squeezed(self, route: Tensor, source: str, placed_on: str = "") -> Placed:
        assert isinstance(self.model, TaskMoE)
        # Soft routes of hard systems (average) are merged: `select` would take the strongest.
        mode = "merge" if source == "average" else self.model.selection.mode
        like = placed_on if isinstance(self.model, Conditioned) else ""
        kept = self._plain
        if kept is None or kept[1] != mode + like or not torch.equal(kept[0], route):
            plain = squeeze(self.model.backbone, route, mode)
            plain = self.model.conditioned(plain, like or None).eval()
            kept = (route, mode + like, Placed(plain, source, "", tuple(route.argmax(-1).tolist())))
            self._plain = kept
        return replace(kept[2], source=source, placed_on=placed_on)
