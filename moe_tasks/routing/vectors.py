"""Task vectors: where the representation of a task comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register


class Texts(Protocol):
    """Token ids of a task's examples."""

    def __call__(
        self, task: str, sample: str | None
    ) -> tuple[list[numpy.ndarray], list[numpy.ndarray]]:
        """Inputs and outputs of a training task, or of one few-shot sample of an unseen one."""
        ...


@dataclass(frozen=True)
class VectorContext:
    """What task vectors may be made from: the initial dense model and the tasks' examples."""

    model: PreTrainedModel
    texts: Texts
    pad_token_id: int
    seed: int


class TaskVectors(Protocol):
    """A source of task vectors.

    Attributes:
        learn: whether training goes on changing them.
    """

    learn: bool

    def fit(self, tasks: Sequence[str]) -> Tensor:
        """Vectors ``[tasks, dim]`` of the training tasks."""
        ...

    def place(self, task: str, sample: str) -> Tensor | None:
        """Vector ``[dim]`` of an unseen task from one few-shot sample, by the same fitted
        transformation; ``None`` if this source cannot know."""
        ...


@register("task_vectors", "learned")
@dataclass
class LearnedVectors:
    """Drawn from a standard normal and learned (``random`` in 2205.12701).

    Attributes:
        dim: width.
    """

    dim: int = 128

    def build(self, context: VectorContext) -> TaskVectors:
        return _Learned(self.dim, context.seed)


@dataclass
class _Learned:
    dim: int
    seed: int
    learn: bool = True

    def fit(self, tasks: Sequence[str]) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(len(tasks), self.dim, generator=generator)

    def place(self, task: str, sample: str) -> Tensor | None:
        return None


@register("task_vectors", "text")
@dataclass
class TextVectors:
    """Mean state of the initial model's encoder over some inputs, beside that over their outputs
    (TextEmb of 2205.12701; here padding is excluded), standardised and whitened over the training
    tasks.

    Mean states of tasks with the same kind of text lie close together, and a router sends them
    the same way. Whitening gives the directions in which such tasks differ their weight.

    Attributes:
        examples: how many examples per task.
        whiten: principal directions of the standardised vectors are divided by their singular
            value to this power: 0 leaves them, 1 makes all equally wide.
        learn: whether training goes on changing the vectors.
    """

    examples: int = 16
    whiten: float = 0.5
    learn: bool = False

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"'examples' is {self.examples}; it must be at least 1")
        if not 0 <= self.whiten <= 1:
            raise ValueError(f"'whiten' is {self.whiten}; it must be from 0 to 1")

    def build(self, context: VectorContext) -> TaskVectors:
        return _Text(self.examples, self.whiten, self.learn, context)


class _Text:
    def __init__(self, examples: int, whiten: float, learn: bool, context: VectorContext) -> None:
        self.examples, self.whiten, self.learn = examples, whiten, learn
        self.context = context
        self.mean = self.std = self.transform = torch.zeros(0)

    def fit(self, tasks: Sequence[str]) -> Tensor:
        raw = torch.stack([self._raw(task, None) for task in tasks])
        self.mean = raw.mean(0)
        self.std = raw.std(0, correction=0).clamp_min(1e-6)
        standard = (raw - self.mean) / self.std
        _, widths, directions = torch.linalg.svd(standard, full_matrices=False)
        kept = widths > 1e-3 * widths[0].clamp_min(1e-6)  # centred: at most one less than tasks
        if not kept.any():
            raise UserError("task vectors from text: all training tasks have the same text")
        self.transform = directions[kept].mT * widths[kept] ** -self.whiten
        self.transform /= (standard @ self.transform).std(correction=0)
        return standard @ self.transform

    def place(self, task: str, sample: str) -> Tensor | None:
        return (self._raw(task, sample) - self.mean) / self.std @ self.transform

    def _raw(self, task: str, sample: str | None) -> Tensor:
        halves = self.context.texts(task, sample)
        encode = mean_encoder_states
        pad = self.context.pad_token_id
        return torch.cat([encode(self.context.model, h[: self.examples], pad) for h in halves])


@torch.no_grad()
def mean_encoder_states(
    model: PreTrainedModel, texts: Sequence[numpy.ndarray], pad_token_id: int
) -> Tensor:
    """Mean over texts of the mean encoder state over each text's tokens, ``[D]``."""
    length = max(len(text) for text in texts)
    ids = torch.full((len(texts), length), pad_token_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.from_numpy(numpy.asarray(text, numpy.int64))
        mask[row, : len(text)] = 1
    encoder: Any = model.get_encoder()
    device = next(model.parameters()).device
    states = encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
    weights = mask.to(states)[..., None]
    return ((states * weights).sum(1) / weights.sum(1)).mean(0).float().cpu()


@register("task_vectors", "file")
@dataclass
class FileVectors:
    """Read from a safetensors file with one tensor ``[dim]`` per task name.

    Attributes:
        path: the file.
        learn: whether training goes on changing the vectors.
    """

    path: str
    learn: bool = False

    def build(self, context: VectorContext) -> TaskVectors:
        return _File(self._read(), self.learn)

    def _read(self) -> dict[str, Tensor]:
        if not Path(self.path).is_file():
            raise UserError(f"task_vectors.path: no file {self.path}")
        try:
            vectors = load_file(self.path)
        except SafetensorError as error:
            raise UserError(f"{self.path}: not a safetensors file: {error}") from error
        for name, vector in vectors.items():
            if vector.dim() != 1 or not torch.isfinite(vector).all():
                raise UserError(f"{self.path}: vector of {name!r} is not one row of finite numbers")
        if len({len(v) for v in vectors.values()}) != 1:
            raise UserError(f"{self.path}: vectors differ in width")
        return vectors


@dataclass
class _File:
    vectors: dict[str, Tensor]
    learn: bool

    def fit(self, tasks: Sequence[str]) -> Tensor:
        for task in tasks:
            if task not in self.vectors:
                raise UserError(f"no task vector for {task!r}; {nearest(task, self.vectors)}")
        return torch.stack([self.vectors[task].float() for task in tasks])

    def place(self, task: str, sample: str) -> Tensor | None:
        vector = self.vectors.get(task)
        return None if vector is None else vector.float()
