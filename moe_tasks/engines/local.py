"""One process and one device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from moe_tasks.engines.base import (
    OutOfMemory,
    advice,
    check_state,
    checkpoint_gradients,
    is_out_of_memory,
)
from moe_tasks.engines.processes import Processes
from moe_tasks.training.adamw import Collected, FusedAdamW
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batch
from moe_tasks.training.model import Trainable
from moe_tasks.training.optimizer import (
    build_optimizer,
    freeze,
    parameter_names,
    restore_states,
    state_tensors,
)
from moe_tasks.training.randomness import random_state, set_random_state

logger = logging.getLogger(__name__)


class LocalEngine:
    """Forward, backward and update on one device; see :class:`~moe_tasks.engines.base.Engine`."""

    def __init__(self, model: Trainable, config: TrainingConfig) -> None:
        self.model = model
        self.config = config
        self.processes, self.splits = Processes(), 1
        freeze(model, config.freeze)
        self._names = parameter_names(model)
        self._parameters = list(self._names)
        self._optimizer = build_optimizer(model, config)
        self.device = self._parameters[0].device
        self._norm = torch.zeros((), device=self.device)
        self._collected: list[Collected] = []  # of the last backward pass
        if config.gradient_checkpointing:
            checkpoint_gradients(model)

    def backward(self, batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        most_rows = max(batch.rows for batch in batches)
        state = random_state(self.device)
        while True:
            try:
                loss = self._accumulate(batches)
                self._norm = self._gradient_norm()
                return loss, self._norm
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.splits >= most_rows:
                    raise OutOfMemory(advice(batches, error)) from error
            self.zero_gradients()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            set_random_state(state, self.device)
            self.splits *= 2
            logger.warning("out of memory: batches are now computed in %d parts", self.splits)

    def update(self, rates: Mapping[str, float], norm: float | None = None) -> None:
        clip = self.config.clip
        if clip is not None and (norm is None or norm + 1e-6 > clip):  # torch's own margin
            self._shorten((self._norm + 1e-6) / clip)
        for group in self._optimizer.param_groups:
            if group["name"] in rates:
                group["lr"] = rates[group["name"]]
            else:
                for parameter in group["params"]:
                    parameter.grad = None  # AdamW leaves it, with its decay and averages, alone
        if isinstance(self._optimizer, FusedAdamW) and self._collected:
            self._optimizer.apply([c for c in self._collected if c.group["name"] in rates])
        else:
            self._optimizer.step()

    def _shorten(self, divisor: torch.Tensor) -> None:
        divisor = divisor.clamp(min=1.0)
        if isinstance(self._optimizer, FusedAdamW):  # divides gradients while it reads them anyway
            self._optimizer.grad_scale = divisor
        else:
            grads = [p.grad for p in self._parameters if p.grad is not None]
            torch._foreach_div_(grads, divisor)  # type: ignore[attr-defined]

    def zero_gradients(self) -> None:
        self._collected = []
        for parameter in self._parameters:  # torch's own way looks each up in several tables
            parameter.grad = None

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**state_tensors(self._optimizer, self._names), **random_state(self.device)}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        by_name = {name: parameter for parameter, name in self._names.items()}
        shapes = {name: parameter.shape for name, parameter in by_name.items()}
        states: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                name, field = check_state(key, value, shapes)
                states.setdefault(name, {})[field] = value
        restore_states(self._optimizer, {by_name[name]: state for name, state in states.items()})
        set_random_state(tensors, self.device)

    def load_model(self, path: Path) -> None:
        self.model.load_weights(path)

    def save_model(self, path: Path) -> None:
        self.model.save(path)

    def complete(self) -> bool:
        return True

    def _accumulate(self, batches: Sequence[Batch]) -> torch.Tensor:
        targets = max(1, sum(batch.targets for batch in batches))
        divisor = 1 if self.config.loss == "sum" else targets
        total = torch.zeros((), device=self.device)
        for batch in batches:
            for part in batch.parts(self.splits):
                loss = self._loss(part)
                (loss / divisor).backward()
                total += loss.detach() / targets
        if self.config.expert_regularization:
            distance = self.model.expert_distance()
            if distance.requires_grad:
                (self.config.expert_regularization * distance).backward()
        return total

    def _loss(self, part: Mapping[str, torch.Tensor]) -> torch.Tensor:
        inputs = {k: v.to(self.device) for k, v in part.items() if k != "task_ids"}
        inputs["task_ids"] = part["task_ids"]  # read by the host: a device would make it wait
        cast = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if cast else nullcontext():
            return self.model.loss(inputs, self.config.label_smoothing)

    def _gradient_norm(self) -> torch.Tensor:
        if isinstance(self._optimizer, FusedAdamW) and self.device.type == "cpu":
            self._collected = self._optimizer.collect()
            grads = [grad for own in self._collected for part in own.grads for grad in part]
            if all(grad.is_contiguous() for grad in grads):  # a third of the time of torch's norm
                flat = [grad.view(-1) for grad in grads]
                return torch.stack([torch.dot(grad, grad) for grad in flat]).sum().sqrt()
        grads = [p.grad for p in self._parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads).to(self.device)
