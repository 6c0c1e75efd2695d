"""Expert parallelism as DeepSpeed sees it, and the module that computes a process's loss."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from deepspeed.moe.layer import MoE
from deepspeed.utils import groups
from torch import nn

from moe_tasks.engines.layouts import check_experts, check_regularization
from moe_tasks.engines.ownership import Everything, Layout, Ownership
from moe_tasks.engines.processes import Processes
from moe_tasks.experts.dispatch import spread_plan
from moe_tasks.experts.peers import Peers
from moe_tasks.experts.trips import GroupRows
from moe_tasks.model import TaskMoE
from moe_tasks.training.config import TrainingConfig


def spread_experts(
    model: Any, config: TrainingConfig, processes: Processes, size: int
) -> tuple[Everything, Peers | None]:
    """Divide the model's experts, if it has any, over ``size`` neighbouring processes each.

    A collective. Peers are those that this process shares a model's experts with.

    Raises:
        UserError: they cannot be divided like this, or trained then.
    """
    if size == 1 or not isinstance(model, TaskMoE):
        return Everything(Layout(1, processes.rank, processes.world)), None
    check_regularization(size, config.expert_regularization)
    check_experts(size, model.spec.num_experts, model.selection)
    with processes.calling("set-up"):
        groups._create_expert_and_data_parallel(size)
    group = groups._get_expert_parallel_group(f"ep_size_{size}")
    peers = Peers(group, processes.rank % size, size, processes.calling)
    ownership = Ownership(model, size, peers, processes.rank, processes.world)
    ownership.claim()
    model.weights_stay = False  # rows, and so gradients, are others' too
    return ownership, peers


class Losses(nn.Module):
    """What DeepSpeed takes for the model; it would end an autocast region around it."""

    def __init__(
        self, model: Any, config: TrainingConfig, device: str, peers: Peers | None = None
    ) -> None:
        super().__init__()
        self.model, self._config, self._device, self._peers = model, config, device, peers
        if peers is not None and any(is_expert(p) for p in model.parameters() if p.requires_grad):
            self.mark = _Mark(model.spec.num_experts, peers.size)

    def forward(self, group: GroupRows | None = None, **inputs: Any) -> torch.Tensor:
        """Summed loss of rows, scalar.

        Args:
            group: rows of all processes that share experts, of which ``inputs`` are this one's.
        """
        cast = self._config.precision == "bf16"
        with torch.autocast(self._device, torch.bfloat16) if cast else nullcontext():
            if group is not None and self._peers is not None:
                plan = self.model.plan(group.task_ids)
                inputs["route_plan"] = spread_plan(plan, group, self._peers)
            return self.model.loss(inputs, self._config.label_smoothing)


class _Mark(MoE):
    """Nothing but the sign by which DeepSpeed looks for groups of expert parameters."""

    def __init__(self, num_experts: int, size: int) -> None:
        nn.Module.__init__(self)
        self.num_experts, self.ep_size = num_experts, size
        self.num_local_experts = num_experts // size
        self.expert_group_name = f"ep_size_{size}"

    def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
        """The groups are there already."""


def is_expert(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed takes a parameter for one that not every process has."""
    return not getattr(parameter, "allreduce", True)
