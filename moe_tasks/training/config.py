"""Every number of the training loop, documented and checked in one place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class TrainingConfig:
    """Sizes and rates of one run of the training loop.

    A *step* is one update of the weights from ``accumulation`` batches.

    Attributes:
        steps: updates in all.
        epochs: passes over the training rows, from which ``steps`` then follows.
        learning_rate: peak rate of the backbone and its experts (group ``model``).
        router_learning_rate: peak rate of the router (group ``router``).
        task_vectors_learning_rate: peak rate of the task vectors (group ``task_vectors``).
        weight_decay: decoupled decay; biases and norms (1-D parameters) are never decayed.
        betas, eps: AdamW's.
        clip: largest norm of all gradients together; None turns clipping off.
        warmup: share of ``steps`` over which rates rise linearly.
        schedule: after the warm-up, fall linearly to zero or stay constant.
        accumulation: batches per update; the loss is the mean over all their target tokens.
        length_groups: a batch is computed as up to so many groups of tasks of like length, each
            padded to its own longest row: less padding, the same gradients.
        label_smoothing: probability mass spread evenly over the vocabulary.
        loss: ``mean`` over the target tokens of a step; their ``sum`` (published for experts),
            which changes what ``clip`` and ``expert_regularization`` weigh; or ``task_mean`` over
            a batch's tasks of each task's mean (published for conditional encoders).
        expert_regularization: factor of the distance between experts that is added to the loss
            once per step (2205.12701's code; positive pulls experts together).
        alternate_every: so many steps for router and task vectors alone, then as many for the
            rest alone, and so on; None updates all together.
        freeze: patterns (``*`` and ``?``) of names of parameters that stay as they are, such as
            ``backbone.model.encoder.layers.0.*``, ``router.*`` or ``task_vectors``.
        precision: bf16 runs the forward pass in autocast, weights and updates stay float32.
        gradient_checkpointing: recompute activations in the backward pass.
        eval_every: steps between evaluations; None evaluates after the last step only.
        save_every: steps between checkpoints; None saves best and last only.
        keep: how many of the newest checkpoints stay on disk, beside the best one.
        log_every: steps between log lines.
        max_bad_steps: stop after so many steps in a row with a NaN or infinite gradient.
        num_threads: CPU threads of torch; None leaves torch's choice.
    """

    steps: int = 600
    epochs: float | None = None
    learning_rate: float = 1e-5
    router_learning_rate: float = 1e-3
    task_vectors_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = 1.0
    warmup: float = 0.06
    schedule: Literal["linear", "constant"] = "linear"
    accumulation: int = 1
    length_groups: int = 1
    label_smoothing: float = 0.0
    loss: Literal["mean", "sum", "task_mean"] = "mean"
    expert_regularization: float = 0.0
    alternate_every: int | None = None
    freeze: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    eval_every: int | None = 100
    save_every: int | None = 100
    keep: int = 2
    log_every: int = 10
    max_bad_steps: int = 10
    num_threads: int | None = None

    def __post_init__(self) -> None:
        """Raises ``ValueError`` naming the first field that is out of range."""
        self.betas, self.freeze = tuple(self.betas), tuple(self.freeze)
        for name in (
            "steps",
            "accumulation",
            "length_groups",
            "keep",
            "log_every",
            "max_bad_steps",
        ):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("eval_every", "save_every", "num_threads", "alternate_every"):
            value = getattr(self, name)
            _check(self, name, value is None or value >= 1, "at least 1, or null")
        _check(self, "epochs", self.epochs is None or self.epochs > 0, "above 0, or null")
        for name in ("learning_rate", "router_learning_rate", "task_vectors_learning_rate"):
            _check(self, name, 0 <= getattr(self, name) < float("inf"), "at least 0")
        _check(self, "weight_decay", 0 <= self.weight_decay < float("inf"), "at least 0")
        strength = self.expert_regularization
        _check(self, "expert_regularization", abs(strength) < float("inf"), "a finite number")
        losses = ("mean", "sum", "task_mean")
        _check(self, "loss", self.loss in losses, "mean, sum or task_mean")
        _check(self, "eps", 0 < self.eps < 1, "above 0 and below 1")
        in_range = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _check(self, "betas", in_range, "two numbers from 0 to below 1")
        _check(self, "clip", self.clip is None or self.clip > 0, "above 0, or null")
        _check(self, "warmup", 0 <= self.warmup <= 1, "a share from 0 to 1")
        _check(self, "label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1")
        _check(self, "schedule", self.schedule in ("linear", "constant"), "linear or constant")
        _check(self, "precision", self.precision in ("fp32", "bf16"), "fp32 or bf16")

    @property
    def rates(self) -> dict[str, float]:
        """Peak learning rate of each parameter group."""
        return {
            "model": self.learning_rate,
            "router": self.router_learning_rate,
            "task_vectors": self.task_vectors_learning_rate,
        }

    @property
    def trajectory(self) -> dict[str, Any]:
        """What decides the weights: the fields that may not change when a run is continued."""
        values = dataclasses.asdict(self)
        for name in _FREE:
            del values[name]
        return {**values, "betas": list(self.betas), "freeze": list(self.freeze)}


# These change what is written and how fast, never the weights of an uninterrupted run.
_FREE = (
    "gradient_checkpointing",
    "eval_every",
    "save_every",
    "keep",
    "log_every",
    "max_bad_steps",
    "num_threads",
)


def _check(config: TrainingConfig, name: str, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name} is {getattr(config, name)!r}; it must be {expected}")
