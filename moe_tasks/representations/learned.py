"""Vectors that are drawn at random and learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tasks.registry import register
from moe_tasks.representations.base import TaskVectors, VectorContext


@register("task_vectors", "learned")
@dataclass
class LearnedVectors:
    """Drawn from a standard normal and learned (``random`` in 2205.12701).

    Attributes:
        dim: width.
    """

    dim: int = 128

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"'dim' is {self.dim}; it must be at least 1")

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
