"""What a task's templates and description say, encoded: known for a task without any example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.representations.base import Ids, VectorContext
from moe_tasks.representations.computed import Cell, ComputedVectors, Representation
from moe_tasks.representations.sentence import SentenceVectors
from moe_tasks.representations.text import TextVectors, mean_encoder_states
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.tasks.prompted_task import PromptedCollection
from moe_tasks.tasks.sampling import uniform
from moe_tasks.tasks.templates import Template
from moe_tasks.tasks.tokens import encode_texts

_CHOICES = 32  # draws of templates that training chooses among


@dataclass(frozen=True)
class Prompts:
    """Texts of a collection's tasks (``base.PromptTexts``): of its templates, or where a collection
    has none, its instruction."""

    collection: TaskCollection
    tokenizer: Any
    max_source: int

    def texts(self, task: str) -> list[str]:
        collection = self.collection
        if isinstance(collection, PromptedCollection):
            prompted = collection.prompted[collection.task(task).name]
            return [self.text(task, template) for template in prompted.templates]
        instruction = collection.task(task).instruction
        if not instruction:
            raise UserError(f"task {task!r} has neither templates nor an instruction to encode")
        return [instruction]

    def text(self, task: str, template: Template) -> str:
        """Description and one template."""
        return f"{self.collection.task(task).instruction} {template.words}".strip()

    def ids(self, texts: Sequence[str]) -> Ids:
        return encode_texts(self.tokenizer, texts, self.max_source)


@dataclass
class _OfPrompts(Representation):
    """Attributes:
    examples: how many templates per task, the first ones; ``None`` is all.
    dropout: each template is left out of a training step's vector with this probability; at least
        one stays. An unseen task is asked in one wording: 0 trains on means of all only.
    """

    examples: int | None = None
    dropout: float = 0.5

    _afterwards: ClassVar[frozenset[str]] = Representation._afterwards | {"dropout"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"'dropout' is {self.dropout}; it must be at least 0 and below 1")

    def texts(self, context: VectorContext, cell: Cell) -> tuple[list[Any], list[Any]]:
        assert context.prompts is not None, "this representation needs the tasks' templates"
        return context.prompts.texts(cell[0])[: self.examples], []

    def build(self, context: VectorContext) -> PromptTaskVectors:
        return PromptTaskVectors(self, context)


@register("task_vectors", "prompt")
@dataclass
class PromptVectors(_OfPrompts, TextVectors):
    """Mean state of the initial model's encoder over each template's text, averaged over the
    task's templates, standardised and whitened."""

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        assert context.prompts is not None
        return mean_encoder_states(context.model, context.prompts.ids(inputs), context.pad_token_id)


@register("task_vectors", "prompt_sentence")
@dataclass
class PromptSentenceVectors(_OfPrompts, SentenceVectors):
    """As ``prompt``, by a sentence encoder (``path``)."""

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        return self.mean(inputs, next(context.model.parameters()).device)


@register("task_vectors", "inputs")
@dataclass
class InputVectors(TextVectors):
    """As ``text``, of inputs alone: known for a task whose rows have no labels."""

    def texts(self, context: VectorContext, cell: Cell) -> tuple[list[Any], list[Any]]:
        return super().texts(context, cell)[0], []

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        return mean_encoder_states(context.model, inputs[: self.examples], context.pad_token_id)


class PromptTaskVectors(ComputedVectors):
    """Task vectors of templates, of all together or of some."""

    representation: _OfPrompts

    def place_texts(self, texts: Sequence[str]) -> Tensor:
        """Vector ``[dim]`` of any texts, such as one template's."""
        assert self.transformation is not None, "fitted first"
        return self.transformation(self.representation.raw(self.context, list(texts), []))

    def choices(self, tasks: Sequence[str]) -> Tensor | None:
        """Vectors ``[tasks, K, dim]`` of drawn templates of each task; ``None`` without dropout."""
        dropout = self.representation.dropout
        if not dropout or self.learn:
            return None
        assert self.transformation is not None, "fitted first"
        drawn = []
        for task in tasks:
            texts, _ = self.representation.texts(self.context, (task, None))
            each = torch.stack([self.representation.raw(self.context, [t], []) for t in texts])
            draws = uniform(_CHOICES * len(texts), self.context.seed, "templates", task)
            kept = torch.from_numpy(draws.reshape(_CHOICES, -1))
            kept = (kept >= dropout) | (kept == kept.max(1, keepdim=True).values)
            weights = kept.float() / kept.sum(1, keepdim=True)
            drawn.append(self.transformation(weights @ each))
        return torch.stack(drawn)


def offered(source: Any, tasks: Sequence[str]) -> Tensor | None:
    """Vectors that training draws from, of sources that have several per task."""
    return source.choices(tasks) if isinstance(source, PromptTaskVectors) else None
