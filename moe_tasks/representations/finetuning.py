"""A copy of the initial model, trained on one task's examples by the one Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from transformers import PreTrainedModel

from moe_tasks.multitask import DenseModel
from moe_tasks.tasks.sampling import UniformSampling
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import TrainBatches
from moe_tasks.training.trainer import Trainer

# Training must not depend on what the task is called, only on its examples.
_TASK = "task"


@dataclass(frozen=True)
class FineTuning:
    """Sizes and rates; the defaults are published, the files in conf have those of small models.

    Attributes:
        steps: updates; 0 leaves the model as it is.
        learning_rate: peak rate.
        batch_size: examples per update, at most as many as there are.
        warmup: share of the steps over which the rate rises.
        weight_decay, clip: as in training.
    """

    steps: int = 2500
    learning_rate: float = 3e-5
    batch_size: int = 8
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float | None = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError("'steps' must be at least 0 and 'batch_size' at least 1")
        self.training()

    def training(self) -> TrainingConfig:
        """How the Trainer trains."""
        return TrainingConfig(
            steps=max(1, self.steps),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip=self.clip,
            warmup=self.warmup,
            eval_every=None,
            save_every=None,
            log_every=10**9,
        )


def fine_tune(
    model: PreTrainedModel,
    examples: tuple[list[numpy.ndarray], list[numpy.ndarray]],
    config: FineTuning,
    pad_token_id: int,
    seed: int,
) -> None:
    """Train ``model`` in place, those of its parameters that are trainable; leaves it in
    evaluation mode, and torch's random state as it was.

    Args:
        examples: token ids of inputs and outputs.

    Raises:
        UserError: the loss was not finite for too many steps.
        Interrupted: a signal came.
    """
    rows = list(range(len(examples[0])))
    sampling = UniformSampling(tasks_per_batch=1, rows_per_task=min(config.batch_size, len(rows)))
    batches = TrainBatches(
        sampling.build({_TASK: rows}, seed), _Tokens(*examples), [_TASK], pad_token_id
    )
    if config.steps:
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            Trainer(
                DenseModel(model, [_TASK]),
                config.training(),
                batches,
                None,
                system="task_vectors",
                seed=seed,
            ).fit()
    model.eval()


@dataclass(frozen=True)
class _Tokens:
    """One task's examples as a token table (``training.data.Tokens``)."""

    inputs: list[Any]
    outputs: list[Any]

    def sources(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        return [self.inputs[row] for row in rows]

    def targets(self, rows: Sequence[int]) -> list[numpy.ndarray]:
        return [self.outputs[row] for row in rows]
