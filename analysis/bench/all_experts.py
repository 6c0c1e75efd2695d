"""The published form: every layer holds m whole copies, and all of them run on the whole batch.

Kept here only, to measure against (github.com/INK-USC/CrossTaskMoE computes this function).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.experts.convert import named_layers
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import MultiTaskModel


class AllExpertsLayer(nn.Module):
    """m copies of a layer; outputs stacked and weighted per row."""

    def __init__(self, layers: list[nn.Module], index: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.index = index

    def forward(self, *args: Any, row_weights: Tensor, **kwargs: Any) -> Tensor:
        """``row_weights [L, B, m]`` are those of all layers."""
        outputs = [layer(*args, **kwargs) for layer in self.layers]
        stacked = torch.stack([o[0] if isinstance(o, tuple) else o for o in outputs])
        weights = row_weights[self.index].T.to(stacked.dtype)
        return (weights[..., None, None] * stacked).sum(0)


class AllExperts(MultiTaskModel):
    """The function of ``routed`` (one that selects or mixes), with its parameters, as published."""

    def __init__(self, routed: TaskMoE) -> None:
        m, num_layers = routed.spec.num_experts, len(routed.layer_names)
        only = torch.eye(m)[:, None].expand(m, num_layers, m)
        plain = [routed.squeeze_route(route) for route in only]
        super().__init__(plain[0], routed.task_names)
        copies = [named_layers(model) for model in plain]
        paths = {id(module): path for path, module in self.backbone.named_modules()}
        for index, (name, first) in enumerate(copies[0].items()):
            layer = AllExpertsLayer([mine[name] for mine in copies], index)
            self.backbone.set_submodule(paths[id(first)], layer)
        self.router = copy.deepcopy(routed.router)
        self.selection = routed.selection
        self.task_vectors = nn.Parameter(routed.task_vectors.detach().clone())
        self._step = 0

    def set_step(self, step: int) -> None:
        self._step = step

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task_ids: Tensor,
        **kwargs: Any,
    ) -> Any:
        """Rows ``[B, S]`` (and ``labels [B, T]``) of tasks ``[B]`` to a model output."""
        logits = self.router(self.task_vectors)
        weights = self.selection(logits, step=self._step, training=self.training)
        return self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            row_weights=weights[:, task_ids],
            use_cache=False,
            **kwargs,
        )

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            **super().parameter_groups(),
            "router": list(self.router.parameters()),
            "task_vectors": [self.task_vectors],
        }
