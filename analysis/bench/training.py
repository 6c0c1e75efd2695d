"""Time of a training step: forward, backward and AdamW update by the framework's own engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from analysis.bench.models import batch, limit_threads, model_of, synchronise
from analysis.bench.race import Measures, Repeat
from analysis.bench.setting import Setting
from moe_tasks.engines.local import LocalEngine
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batch

FORWARD_BACKWARD = "fwd_bwd"
_WARM_UP = 2


class Step:
    """One training step after the other.

    Args:
        model: on its device; that of the setting's scheme if ``None``.
        next_batch: the same batch again and again if ``None``.
    """

    def __init__(
        self,
        setting: Setting,
        model: MultiTaskModel | None = None,
        next_batch: Callable[[], Batch] | None = None,
    ) -> None:
        limit_threads(setting)
        self.model = (model_of(setting) if model is None else model).train()
        self.config = TrainingConfig(precision=setting.precision)
        self.engine = LocalEngine(self.model, self.config)
        same = batch(setting)
        self._next = (lambda: same) if next_batch is None else next_batch
        self._norm = 0.0

    def backward(self) -> None:
        """Forward and backward pass, with the wait that the training loop has."""
        loss, self._norm = torch.stack(self.engine.backward([self._next()])).tolist()
        if not (math.isfinite(loss) and math.isfinite(self._norm)):
            raise RuntimeError(f"loss and norm of the gradients are {loss} and {self._norm}")

    def update(self) -> None:
        """The optimizer's part."""
        self.engine.update(self.config.rates, self._norm)
        self.engine.zero_gradients()

    def warm_up(self) -> None:
        """Steps that make the optimizer's state and fill the allocators' caches."""
        for _ in range(_WARM_UP):
            self.backward()
            self.update()


def prepare(setting: Setting) -> Repeat:
    """Seconds of one step, and of its forward and backward pass alone."""
    step = Step(setting)
    step.warm_up()

    def repeat() -> Measures:
        both = seconds(step.backward, setting.device)
        return {"": both + seconds(step.update, setting.device), FORWARD_BACKWARD: both}

    return repeat


def seconds(work: Callable[[], None], device: str) -> float:
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began
