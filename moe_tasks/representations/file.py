"""Vectors from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register
from moe_tasks.representations.base import TaskVectors, VectorContext
from moe_tasks.representations.vector_file import cell_name, read_vectors


@register("task_vectors", "file")
@dataclass
class FileVectors:
    """Read from a file that ``python -m moe_tasks.represent`` wrote, or any safetensors file with
    one tensor ``[dim]`` per task name (and per ``task@sample``, to place unseen tasks).

    Attributes:
        path: the file.
        learn: whether training goes on changing the vectors.
    """

    path: str
    learn: bool = False

    def build(self, context: VectorContext) -> TaskVectors:
        """Read the file.

        Raises:
            UserError: see ``vector_file.read_vectors``; or it was made with another backbone.
        """
        file = read_vectors(self.path)
        require_backbone(self.path, file.facts, context)
        return _File(self.path, file.vectors, self.learn)


def require_backbone(path: str, facts: Mapping[str, Any], context: VectorContext) -> None:
    """Raises ``UserError`` if a file's vectors come from other weights than the context's."""
    made_with = facts.get("backbone")
    if made_with is not None and made_with != context.fingerprint:
        raise UserError(
            f"{path}: made with another backbone (weights {made_with[:12]}, here "
            f"{context.fingerprint[:12]}); compute it for this one with "
            "python -m moe_tasks.represent, or give the folder of its initial weights as "
            "backbone=pretrained backbone.path=..."
        )


@dataclass
class _File:
    path: str
    vectors: dict[str, Tensor]
    learn: bool

    def fit(self, tasks: Sequence[str]) -> Tensor:
        return torch.stack([self._find(task, task) for task in tasks])

    def place(self, task: str, sample: str) -> Tensor | None:
        return self._find(task, cell_name(task, sample), task)

    def _find(self, task: str, *names: str) -> Tensor:
        """The vector of the first name there is: of a sample, or else of the whole task."""
        for name in names:
            if name in self.vectors:
                return self.vectors[name]
        hint = nearest(names[0], self.vectors)
        raise UserError(f"{self.path}: no task vector for {task!r} ({names[0]}); {hint}")
