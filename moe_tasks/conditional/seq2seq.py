"""Sequence-to-sequence models with conditional parts in their encoder, with or without experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moe_tasks import config as configuration
from moe_tasks.conditional.conditioned import Conditioned
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import convert
from moe_tasks.conditional.modules import OneTask
from moe_tasks.conditional.plans import plan_of
from moe_tasks.errors import UserError
from moe_tasks.experts.convert import named_as
from moe_tasks.model import TaskMoE, TaskMoEConfig
from moe_tasks.multitask import DenseModel, MultiTaskModel


class _ConditionalEncoder(Conditioned):
    """What the encoder's condition adds to a dense or a routed model."""

    def forward(self, input_ids: Tensor, *args: Any, task_ids: Tensor, **kwargs: Any) -> Any:
        """As without conditional parts; rows ``[B, S]`` of tasks ``task_ids [B]``."""
        kwargs["condition"] = self.condition(task_ids)
        return super().forward(input_ids, *args, task_ids=task_ids, **kwargs)

    def generate(
        self,
        input_ids: Tensor,
        *,
        task_ids: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """``generate`` of the backbone for rows ``[B, S]`` whose tasks may differ."""
        # Encoded here: the library repeats states for beams, but not what belongs to a condition.
        with torch.no_grad():
            arguments = self._task_arguments(task_ids)
            kwargs["encoder_outputs"] = self.backbone.get_encoder()(
                input_ids=input_ids, attention_mask=attention_mask, **arguments
            )
        base: Any = super()
        return base.generate(input_ids, task_ids=task_ids, attention_mask=attention_mask, **kwargs)

    def conditioned(self, plain: PreTrainedModel, like: str | None) -> PreTrainedModel:
        return for_one_task(plain, self.start_embedding(like), self.task_projection)

    def squeeze(self, task: str) -> PreTrainedModel:
        """The model of one task, called as a plain one; its conditional parts stay in it."""
        return self.conditioned(super().squeeze(task), task)

    def _meta(self) -> dict[str, Any]:
        own = {"kind": "conditional_seq2seq", "conditional": dataclasses.asdict(self.config)}
        return {**super()._meta(), **own}


class ConditionalSeq2Seq(_ConditionalEncoder, DenseModel):
    """One set of weights for every task; the encoder is modulated by a task embedding.

    The decoder stays as it is (arXiv 2009.09139 has encoders only).

    Args:
        backbone: BART, T5 or alike; converted in place.
        tasks: names, in the order of their ids.
        config: the conditional parts.
    """

    def __init__(
        self, backbone: PreTrainedModel, tasks: Sequence[str], config: ConditionalConfig
    ) -> None:
        convert(backbone, config)
        super().__init__(backbone, tasks)
        self._add_condition(config)

    @staticmethod
    def from_meta(backbone: PreTrainedModel, meta: Mapping[str, Any]) -> MultiTaskModel:
        """The model that a saved folder's meta data describes, its weights still to be loaded."""
        config = configuration.from_mapping(ConditionalConfig, meta["conditional"])
        if "config" not in meta:
            return ConditionalSeq2Seq(backbone, meta["tasks"], config)
        spec = configuration.from_mapping(TaskMoEConfig, meta["config"])
        return RoutedConditionalSeq2Seq(backbone, meta["tasks"], spec, config)


class RoutedConditionalSeq2Seq(_ConditionalEncoder, TaskMoE):
    """Both stacks have experts; what conditioning adds to the encoder exists once.

    Args:
        spec, noise, task_vectors: as of :class:`~moe_tasks.model.TaskMoE`.
        config: the conditional parts.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tasks: Sequence[str],
        spec: TaskMoEConfig,
        config: ConditionalConfig,
        *,
        noise: float = 0.0,
        task_vectors: Tensor | None = None,
    ) -> None:
        convert(backbone, config)  # before the layers become routed ones: these group its rows
        super().__init__(backbone, tasks, spec, noise=noise, task_vectors=task_vectors)
        self._add_condition(config)

    def _task_arguments(self, task_ids: Tensor) -> dict[str, Any]:
        return {**super()._task_arguments(task_ids), "route_plan": self.plan(task_ids)}

    def for_task(self, task: str, vector: Tensor, like: str | None = None) -> TaskMoE:
        twin = super().for_task(task, vector, like)
        start = self.start_embedding(like)[None].clone()
        twin.task_embedding = nn.Embedding.from_pretrained(start, freeze=False)
        return twin


def for_one_task(
    model: PreTrainedModel, embedding: Tensor, projection: nn.Linear | None
) -> PreTrainedModel:
    """A converted ``model``, changed in place to be called as a plain one, for one task.

    The task's embedding ``[D]`` and a copy of ``projection`` become its parameters.
    """
    plan_of(model).encoder_of(model).one_task = OneTask(embedding, projection)
    model.__class__ = _one_task_class(type(model))
    return model


@cache
def _one_task_class(parent: Any) -> type:
    class OfOneTask(parent):
        def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
            raise UserError(
                f"a conditional encoder's parts have no place in a plain {parent.__name__}: save "
                "the system whole, as its checkpoints are"
            )

    return named_as(OfOneTask, parent)
