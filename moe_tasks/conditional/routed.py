"""Task-level experts inside an encoder of many tasks, alone or under conditional parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from moe_tasks import config as configuration
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import convert
from moe_tasks.conditional.heads import HeadConfig
from moe_tasks.conditional.model import CAMTL, Pooling, SavedParts
from moe_tasks.model import TaskMoE, TaskMoEConfig


class RoutedCAMTL(CAMTL, TaskMoE):
    """An encoder whose layers exist m times, with a head per task and maybe conditional parts.

    What conditioning adds to the encoder exists once: it tells tasks apart by itself. With
    :meth:`ConditionalConfig.none` there are experts and heads only.

    Args:
        spec: of experts, router and selection.
        heads, config, pooling: as of :class:`CAMTL`.
        noise, task_vectors: as of :class:`~moe_tasks.model.TaskMoE`.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tasks: Sequence[str],
        spec: TaskMoEConfig,
        heads: Mapping[str, HeadConfig],
        config: ConditionalConfig,
        *,
        pooling: Pooling = "pooler",
        noise: float = 0.0,
        task_vectors: Tensor | None = None,
    ) -> None:
        convert(backbone, config)  # before the layers become routed ones: these group its rows
        TaskMoE.__init__(self, backbone, tasks, spec, noise=noise, task_vectors=task_vectors)
        self._add_parts(heads, config, pooling)

    def _task_arguments(self, task_ids: Tensor) -> dict[str, Any]:
        return {**super()._task_arguments(task_ids), "route_plan": self.plan(task_ids)}

    def _meta(self) -> dict[str, Any]:
        spec = dataclasses.asdict(self.spec)
        return {**CAMTL._meta(self), "kind": "camtl_moe", "routing": spec}

    @classmethod
    def from_meta(cls, backbone: PreTrainedModel, meta: Mapping[str, Any]) -> RoutedCAMTL:
        """The model that a saved folder's meta data describes, its weights still to be loaded."""
        saved = SavedParts.of(meta)
        spec = configuration.from_mapping(TaskMoEConfig, meta["routing"])
        return cls(backbone, meta["tasks"], spec, saved.heads, saved.config, pooling=saved.pooling)
