"""Routers: task vectors to logits over the experts of every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moe_tasks.registry import register


class Router(nn.Module):
    """Base of routers: ``[T, task_dim]`` task vectors to ``[L, T, m]`` logits.

    Args:
        task_dim: width of a task vector.
        num_layers: L, routed layers (encoder first, then decoder).
        num_experts: m.
        hidden_dim: width inside the router (64 in 2205.12701).
    """

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        super().__init__()
        self.task_dim = task_dim
        self.num_layers = num_layers
        self.num_experts = num_experts
        self.hidden_dim = hidden_dim

    def forward(self, task_vectors: Tensor) -> Tensor:
        raise NotImplementedError


def _mlp(task_dim: int, hidden_dim: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(task_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, outputs))


@register("router", "linear")
class LinearRouter(Router):
    """One two-layer GELU MLP for all layers (``linear`` in 2205.12701)."""

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)
        self.mlp = _mlp(task_dim, hidden_dim, num_layers * num_experts)

    def forward(self, task_vectors: Tensor) -> Tensor:
        logits = self.mlp(task_vectors).unflatten(-1, (self.num_layers, self.num_experts))
        return logits.movedim(-2, 0)  # [T, L, m] -> [L, T, m]


@register("router", "linear_layer_specific")
class LayerSpecificLinearRouter(Router):
    """One two-layer GELU MLP per layer, the default of 2205.12701."""

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)
        self.mlps = nn.ModuleList(
            _mlp(task_dim, hidden_dim, num_experts) for _ in range(num_layers)
        )

    def forward(self, task_vectors: Tensor) -> Tensor:
        return torch.stack([mlp(task_vectors) for mlp in self.mlps])


@register("router", "identity")
class IdentityRouter(Router):
    """Task vectors are the logits themselves, ``[T, L * m]``.

    Frozen vectors make fixed routes (random, by category); learned ones free logits per task.
    """

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        if task_dim != num_layers * num_experts:
            raise ValueError(
                f"router 'identity' needs task vectors of width {num_layers * num_experts} "
                f"({num_layers} layers x {num_experts} experts), got {task_dim}"
            )
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)

    def forward(self, task_vectors: Tensor) -> Tensor:
        return task_vectors.unflatten(-1, (self.num_layers, self.num_experts)).movedim(-2, 0)
