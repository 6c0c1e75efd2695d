"""The ``engine`` keys, and what of them cannot work, found before any process waits for another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from moe_tasks.engines.base import Engine
from moe_tasks.engines.layouts import check_stage, check_world
from moe_tasks.engines.local import LocalEngine
from moe_tasks.engines.processes import Processes
from moe_tasks.errors import UserError
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.model import Trainable

EngineMaker = Callable[[Trainable, TrainingConfig], Engine]
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OURS = {
    "train_batch_size": "sampling.tasks_per_batch and sampling.rows_per_task",
    "train_micro_batch_size_per_gpu": "training.length_groups",
    "gradient_accumulation_steps": "training.accumulation",
    "gradient_clipping": "training.clip",
    "optimizer": "training.learning_rate and the like",
    "scheduler": "training.schedule and training.warmup",
    "fp16": "training.precision",
    "bf16": "training.precision",
    "zero_optimization.stage": "engine.zero_stage",
}
_UNSUPPORTED = ("zero_optimization.offload_optimizer", "zero_optimization.offload_param")


@dataclass(frozen=True)
class EngineConfig:
    """Attributes:
    name: ``local``, one process; or ``deepspeed``, any number that a launcher starts.
    zero_stage: what DeepSpeed divides over the processes: 0 nothing, 1 optimizer state, 2 reduced
        gradients too, 3 weights too.
    expert_parallel: over how many neighbouring processes each layer's experts are spread.
    timeout: seconds after which a collective call counts as hung.
    config: further keys of DeepSpeed's own configuration.
    """

    name: Literal["local", "deepspeed"] = "local"
    zero_stage: int = 1
    expert_parallel: int = 1
    timeout: float = 600.0
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.expert_parallel < 1:
            raise ValueError(f"'expert_parallel' is {self.expert_parallel}; it must be at least 1")
        if self.expert_parallel > 1:
            if self.name == "local":
                raise ValueError("'expert_parallel' needs several processes: set engine=deepspeed")
            check_stage(self.expert_parallel, self.zero_stage)
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"'zero_stage' is {self.zero_stage}; it must be 0, 1, 2 or 3")
        if self.timeout <= 0:
            raise ValueError(f"'timeout' is {self.timeout}; it must be above 0 seconds")
        for key in _flat(self.config):
            for ours, instead in _OURS.items():
                if key == ours or key.startswith(f"{ours}."):
                    raise ValueError(f"'config.{key}' is made from other keys; set {instead}")
            if key.startswith(_UNSUPPORTED):
                raise ValueError(f"'config.{key}' is not supported: nothing is offloaded")

    def start(self, device: str) -> Processes:
        """Join the other processes, if the configuration and the launcher speak of any.

        Args:
            device: ``cpu`` or ``cuda``.

        Raises:
            UserError: how the processes were started does not fit.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if self.name == "local":
            if world > 1:
                raise UserError(
                    f"a launcher started {world} processes, but 'engine' is local, which is one; "
                    "add engine=deepspeed"
                )
            return Processes()
        check_launch(os.environ, None if device == "cuda" else 0)
        check_world(self.expert_parallel, world)
        from moe_tasks.engines import group  # imports DeepSpeed, which takes seconds

        return group.join(self.timeout, device)

    def maker(self, processes: Processes) -> EngineMaker:
        """What makes the engine of a model."""
        if self.name == "local":
            return LocalEngine
        from moe_tasks.engines.zero import DeepSpeedEngine

        return lambda model, training: DeepSpeedEngine(
            model, training, processes, self.zero_stage, self.config, self.expert_parallel
        )


def check_launch(environment: Mapping[str, str], devices: int | None = None) -> None:
    """Whether a launcher has set what processes need to find each other.

    Args:
        devices: GPUs of this machine; counted if ``None``.

    Raises:
        UserError: it has not, or not for the devices that there are.
    """
    if devices is None:
        import torch

        devices = torch.cuda.device_count()
    world = int(environment.get("WORLD_SIZE", "1"))
    missing = [name for name in _ENVIRONMENT if name not in environment]
    if missing and len(missing) < len(_ENVIRONMENT) and (missing != ["LOCAL_RANK"]):
        raise UserError(f"{', '.join(missing)} not set; start with launch/local.sh N, or torchrun")
    if world == 1 and devices > 1:
        raise UserError(
            f"one process was started, but this machine has {devices} GPUs: start with "
            f"launch/local.sh {devices}, or let it see one (CUDA_VISIBLE_DEVICES=0)"
        )
    local = int(environment.get("LOCAL_RANK", "0"))
    if devices and local >= devices:
        raise UserError(
            f"process {local} of this machine has no GPU of its own ({devices} in all): "
            f"start with launch/local.sh {devices}"
        )


def _flat(values: Mapping[str, Any], where: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        keys += _flat(value, f"{where}{key}.") if inner else [f"{where}{key}"]
    return keys
