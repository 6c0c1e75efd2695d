"""One encoder for many tasks, conditioned on the task (CA-MTL, arXiv 2009.09139)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from moe_tasks import config as configuration
from moe_tasks.conditional.conditioned import Conditioned
from moe_tasks.conditional.config import ConditionalConfig
from moe_tasks.conditional.convert import convert
from moe_tasks.conditional.heads import Head, HeadConfig, build_heads, pool
from moe_tasks.errors import UserError
from moe_tasks.training.loss import IGNORED

Pooling = Literal["pooler", "mean", "first"]


@dataclass
class EncoderOutput:
    """What an encoder of many tasks says about a batch.

    Attributes:
        loss: mean over the batch's tasks of a task's mean loss; ``None`` without labels.
        losses: task -> scalar.
        logits: task -> ``[b, C]`` of its b rows, or ``[b, S, C]`` of their tokens.
        rows: task -> int64 ``[b]``, its rows' places in the batch.
        last_hidden_state: ``[B, S, D]``.
        pooler_output: ``[B, D]``.
    """

    loss: Tensor | None
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    rows: dict[str, Tensor]
    last_hidden_state: Tensor
    pooler_output: Tensor


class CAMTL(Conditioned):
    """An encoder of BERT's layer plan with conditional parts and a head per task.

    With :meth:`ConditionalConfig.none` it is the plain multi-task baseline.

    Args:
        backbone: without a head (``BertModel``, ``RobertaModel``, ...); converted in place.
        tasks: names, in the order of their ids.
        heads: task -> head.
        config: the conditional parts.
        pooling: what heads of rows read: the encoder's own ``pooler``, or the ``mean`` or the
            ``first`` of its states.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tasks: Sequence[str],
        heads: Mapping[str, HeadConfig],
        config: ConditionalConfig | None = None,
        *,
        pooling: Pooling = "pooler",
    ) -> None:
        config = ConditionalConfig() if config is None else config
        convert(backbone, config)
        super().__init__(backbone, tasks)
        self._add_parts(heads, config, pooling)

    def _add_parts(
        self, heads: Mapping[str, HeadConfig], config: ConditionalConfig, pooling: Pooling
    ) -> None:
        """What stands beside the converted encoder: heads and task embedding."""
        backbone = self.backbone
        self.pooling: Pooling = pooling
        if pooling == "pooler" and getattr(backbone, "pooler", None) is None:
            raise UserError(
                f"{type(backbone).__name__} has no pooler; choose pooling: mean or pooling: first"
            )
        width, std = backbone.config.hidden_size, backbone.config.initializer_range
        self.heads = build_heads(self.task_names, heads, width, std)
        self._add_condition(config)

    @classmethod
    def from_backbone(
        cls,
        model_or_name: PreTrainedModel | str,
        heads: Mapping[str, HeadConfig],
        config: ConditionalConfig | None = None,
        *,
        pooling: Pooling = "pooler",
    ) -> CAMTL:
        """A conditional model around a plain encoder, loaded or a folder or hub name.

        Tasks are those of ``heads``, in their order.
        """
        if isinstance(model_or_name, str):
            model_or_name = cast(PreTrainedModel, AutoModel.from_pretrained(model_or_name))
        return cls(model_or_name, list(heads), heads, config, pooling=pooling)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        task_ids: Tensor,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Rows ``[B, S]`` of tasks ``[B]`` to states ``[B, S, D]`` and pooled states ``[B, D]``."""
        kwargs.update(self._task_arguments(task_ids))
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        states = output.last_hidden_state
        if self.pooling == "pooler":
            return states, output.pooler_output
        return states, pool(states, attention_mask, self.pooling)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task_ids: Tensor,
        **kwargs: Any,
    ) -> EncoderOutput:
        """Rows ``[B, S]`` of tasks ``task_ids [B]`` to logits and, with labels, losses.

        Args:
            labels: ``[B]`` or ``[B, T]``, see :meth:`Head.loss`; floating where a task of the batch
                is a regression.

        Raises:
            UserError: an id that belongs to no task, or wrong labels.
        """
        present = self._present(task_ids)
        states, pooled = self.encode(input_ids, attention_mask, task_ids=task_ids, **kwargs)
        logits, losses, rows = {}, {}, {}
        for task_id in present:
            task, head = self.task_names[task_id], self.head(task_id)
            own = rows[task] = (task_ids == task_id).nonzero()[:, 0].to(states.device)
            mask = None if attention_mask is None else attention_mask[own]
            logits[task] = head(states[own], pooled[own], mask)
            if labels is not None:
                losses[task] = head.loss(logits[task], _fitting(labels, head, states)[own])
        loss = torch.stack(list(losses.values())).mean() if losses else None
        return EncoderOutput(loss, losses, logits, rows, states, pooled)

    def loss(self, inputs: Mapping[str, Tensor], label_smoothing: float = 0.0) -> Tensor:
        given = dict(inputs)
        labels, weights = given.pop("labels"), given.pop("weights", None)
        output = self(**given)
        total = torch.zeros((), device=labels.device)
        for task, logits in output.logits.items():
            own, head = output.rows[task], self.head(task)
            known = _fitting(labels, head, output.last_hidden_state)[own]
            losses, _ = head.losses(logits, known, label_smoothing)
            total = total + (losses.sum() if weights is None else losses @ weights[own])
        return total

    def head(self, task: str | int) -> Head:
        """The head of a task, by its name or id."""
        return cast(Head, self.heads[self.task_id(task) if isinstance(task, str) else task])

    def _present(self, task_ids: Tensor) -> list[int]:
        present: list[int] = task_ids.unique().tolist()
        if not present or not 0 <= present[0] <= present[-1] < len(self.task_names):
            raise UserError(f"task ids must be in 0..{len(self.task_names) - 1}; got {present}")
        return present

    def head_configs(self) -> dict[str, HeadConfig]:
        """Task -> its head's configuration."""
        heads = (cast(Head, head).config for head in self.heads)
        return dict(zip(self.task_names, heads, strict=True))

    def squeeze(self, task: str) -> PreTrainedModel:
        raise UserError(
            "a conditional encoder has no plain Hugging Face model per task; save it whole"
        )

    def _meta(self) -> dict[str, Any]:
        heads = {name: dataclasses.asdict(head) for name, head in self.head_configs().items()}
        own = {"kind": "camtl", "config": dataclasses.asdict(self.config), "heads": heads}
        return {**super()._meta(), **own, "pooling": self.pooling}

    @classmethod
    def from_meta(cls, backbone: PreTrainedModel, meta: Mapping[str, Any]) -> CAMTL:
        """The model that a saved folder's meta data describes, its weights still to be loaded."""
        saved = SavedParts.of(meta)
        return cls(backbone, meta["tasks"], saved.heads, saved.config, pooling=saved.pooling)


def _fitting(labels: Tensor, head: Head, states: Tensor) -> Tensor:
    """``labels`` ``[B]`` or ``[B, T]`` as columns; for heads of tokens as many as tokens.

    A batch's labels are as wide as the widest of them, its inputs may be wider.
    """
    if labels.dim() == 1:
        return labels[:, None]
    missing = states.shape[1] - labels.shape[1]
    if head.config.kind != "tokens" or missing <= 0:
        return labels
    return functional.pad(labels, (0, missing), value=IGNORED)


@dataclass
class SavedParts:
    """What a saved folder says about an encoder, beside its tasks."""

    heads: dict[str, HeadConfig]
    config: ConditionalConfig
    pooling: Pooling = "pooler"

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> SavedParts:
        keys = [field.name for field in dataclasses.fields(cls)]
        return configuration.from_mapping(cls, {key: meta[key] for key in keys})
