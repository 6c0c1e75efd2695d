"""What models conditioned on a task share: the task embedding and what it turns into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import new_std
from moe_tasks.conditional.modules import Condition, new_linear
from moe_tasks.multitask import MultiTaskModel


class Conditioned(MultiTaskModel):
    """Base of models whose backbone ``convert`` has given conditional parts."""

    config: ConditionalConfig
    task_embedding: nn.Embedding | None
    task_projection: nn.Linear | None

    def _add_condition(self, config: ConditionalConfig) -> None:
        backbone, self.config = self.backbone, config
        width, std = backbone.config.hidden_size, new_std(backbone)
        self.task_embedding = self.task_projection = None
        if config.conditional:
            self.task_embedding = nn.Embedding(len(self.task_names), width)
            nn.init.normal_(self.task_embedding.weight, std=std)
        if config.in_layers:
            self.task_projection = new_linear(width, width, std)
        like = next(backbone.parameters())
        self.to(device=like.device, dtype=like.dtype)

    def condition(self, task_ids: Tensor) -> Condition | None:
        """What rows of these tasks ``[B]`` are conditioned on; ``None`` without such parts."""
        if self.task_embedding is None:
            return None
        table = self.task_embedding.weight
        projected = table if self.task_projection is None else self.task_projection(table)
        return Condition(task_ids.to(table.device), table, projected)

    def _task_arguments(self, task_ids: Tensor) -> dict[str, Any]:
        """What the converted encoder is told about the rows' tasks."""
        condition = self.condition(task_ids)
        return {} if condition is None else {"condition": condition}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning-rate group.

        ``model``: what the plain backbone, with heads if it has some, has. ``router``: everything
        that turns a task's embedding into a change of the encoder, as a router turns it into a
        route. ``task_vectors``: the task embeddings, and the routers' vectors if they learn.
        """
        conditioning = set(conditioning_parameters(self))
        groups = {"model": [], "router": [], "task_vectors": []}
        for name, parameter in self.named_parameters():
            if name == "task_vectors" and not parameter.requires_grad:
                continue
            if name in ("task_embedding.weight", "task_vectors"):
                groups["task_vectors"].append(parameter)
            else:
                routing = name in conditioning or name.startswith("router.")
                groups["router" if routing else "model"].append(parameter)
        return groups

    @torch.no_grad()
    def start_embedding(self, like: str | None) -> Tensor:
        """``[D]`` of training task ``like``; the mean of all without one."""
        assert self.task_embedding is not None
        table = self.task_embedding.weight
        return table.mean(0) if like is None else table[self.task_id(like)]


# Modules that only a conditional encoder has; ``task_embedding`` is one of their inputs.
_CONDITIONAL_MODULES = (
    "task_embedding", "task_projection", "alignment", "film", "task_bias", "adapter",
    "bottleneck", "bottlenecks",
)  # fmt: skip


def conditioning_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that a plain backbone, with heads if it has some, has not."""
    own = set(_CONDITIONAL_MODULES)
    return [name for name, _ in model.named_parameters() if own & set(name.split("."))]
