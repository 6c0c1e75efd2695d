"""Contexts with a tiny model and tasks of two kinds: low words and high words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from moe_tasks.representations.base import VectorContext
from tests.models import bart

PAD = 1
TASKS = ["low a", "low b", "low c", "high a", "high b", "high c"]


def texts(task: str, sample: str | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(sum(map(ord, task)) + (0 if sample is None else int(sample)))
    low, high = (4, 20) if task.startswith("low") else (40, 60)
    return (
        [rng.integers(low, high, rng.integers(3, 9)) for _ in range(6)],
        [rng.integers(low, high, 2) for _ in range(6)],
    )


def raw_texts(task: str, sample: str | None) -> tuple[list[str], list[str]]:
    inputs, outputs = texts(task, sample)
    return [" ".join(map(str, t)) for t in inputs], [" ".join(map(str, t)) for t in outputs]


def context(
    folder: Path | None = None, model: PreTrainedModel | None = None, seed: int = 0
) -> VectorContext:
    return VectorContext(model or bart(), texts, PAD, seed, raw_texts, folder)
