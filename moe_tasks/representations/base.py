"""What representations share: what they may use, and what they answer to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

Ids = list[numpy.ndarray]


class Texts(Protocol):
    """Token ids of a task's examples."""

    def __call__(self, task: str, sample: str | None) -> tuple[Ids, Ids]:
        """Inputs and outputs of a training task, or of one few-shot sample of an unseen one."""
        ...


class RawTexts(Protocol):
    """As :class:`Texts`, as strings."""

    def __call__(self, task: str, sample: str | None) -> tuple[list[str], list[str]]: ...


class PromptTexts(Protocol):
    """What a task's templates and its description say, without any row."""

    def texts(self, task: str) -> list[str]:
        """One text per template."""
        ...

    def ids(self, texts: Sequence[str]) -> Ids:
        """Token ids of texts, as inputs have them."""
        ...


@dataclass(frozen=True)
class VectorContext:
    """What task vectors may be made from: the initial dense model and the tasks' examples.

    Attributes:
        model: in evaluation mode; nobody changes it.
        seed: of everything random.
        folder: where raw vectors are kept, for a later start and for other processes; ``None``
            keeps them in memory.
        progress: whether to show how far a computation is.
        prompts: what the tasks' templates say.
    """

    model: PreTrainedModel
    texts: Texts
    pad_token_id: int
    seed: int
    raw_texts: RawTexts | None = None
    folder: Path | None = None
    progress: bool = False
    prompts: PromptTexts | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Of the model's weights: names, shapes and values, whatever file they came from."""
        return weights_fingerprint(self.model)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over a model's parameters and buffers, in hexadecimal."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


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
