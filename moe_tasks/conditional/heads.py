"""What an encoder's states become, per task: classes of rows, numbers, classes of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tasks.conditional.labelled_head import HeadConfig, LabelledHead
from moe_tasks.conditional.spans import SpanHead
from moe_tasks.errors import UserError, nearest
from moe_tasks.training.loss import IGNORED


class Head(LabelledHead):
    """Classes of rows or tokens, or a number, with the loss that belongs to each."""

    def forward(
        self, states: Tensor, pooled: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """``[B, S, D]`` and ``[B, D]`` to logits ``[B, C]``, or ``[B, S, C]`` of tokens.

        That of a regression is the number itself, in the unit of its labels.
        """
        config = self.config
        logits = self.linear(self.dropout(states if config.kind == "tokens" else pooled))
        if (config.center, config.scale) == (0.0, 1.0):
            return logits
        return config.center + config.scale * logits.float()

    def losses(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Each row's summed loss, float32 ``[B]``, and how many labels it has ``[B]``.

        Args:
            labels: ``[B, T]``; of tokens ``T = S``, else the first column counts. -100 is no label
                of a class, -100 or NaN none of a number.

        Raises:
            UserError: a label outside the list (seen on the CPU only, where looking costs nothing).
        """
        logits = logits.float()
        if self.config.kind == "regression":
            targets = labels[:, 0].float()
            known = ~targets.isnan() & (targets != IGNORED)
            self._check(known, targets, targets)
            errors = logits[:, 0] - targets.where(known, logits[:, 0].detach())
            return (errors / self.config.scale).square(), known
        targets = (labels if self.config.kind == "tokens" else labels[:, :1]).long()
        rows = logits if self.config.kind == "tokens" else logits[:, None]  # [B, T, C]
        if rows.shape[:-1] != targets.shape:
            raise UserError(
                f"task {self.name!r}: labels of shape {list(targets.shape)} for logits of shape "
                f"{list(logits.shape)}"
            )
        known = targets != IGNORED
        self._check(known, targets, targets.clamp(0, self.config.num_labels - 1))
        losses = functional.cross_entropy(
            rows.flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=label_smoothing,
        )
        return losses.view_as(targets).sum(1), known.sum(1)

    def _check(self, known: Tensor, targets: Tensor, allowed: Tensor) -> None:
        if known.device.type != "cpu":
            return
        wrong = known & ((targets != allowed) | ~targets.float().isfinite())
        if bool(wrong.any()):
            raise UserError(
                f"task {self.name!r}: label {targets[wrong][0].item()} is not one of its "
                f"{self.config.num_labels} labels 0 to {self.config.num_labels - 1}"
                if self.config.kind != "regression"
                else f"task {self.name!r}: label {targets[wrong][0].item()} is no finite number"
            )


def build_heads(
    tasks: Sequence[str], heads: Mapping[str, HeadConfig], width: int, std: float
) -> nn.ModuleList:
    """The heads of ``tasks``, in their order.

    Raises:
        UserError: a task without a head, or a head without a task.
    """
    for task in tasks:
        if task not in heads:
            raise UserError(f"no head for task {task!r}; {nearest(task, heads)}")
    for name in heads:
        if name not in tasks:
            raise UserError(f"a head for {name!r}, which is no task; {nearest(name, tasks)}")
    return nn.ModuleList(_build(task, heads[task], width, std) for task in tasks)


def _build(task: str, config: HeadConfig, width: int, std: float) -> nn.Module:
    if config.kind == "span":
        return SpanHead(task, width, std)
    return Head(task, config, width, std)


def pool(states: Tensor, attention_mask: Tensor | None, how: Literal["mean", "first"]) -> Tensor:
    """``[B, S, D]`` to ``[B, D]``: the mean over real tokens, or the first."""
    if how == "first":
        return states[:, 0]
    if attention_mask is None:
        return states.mean(1)
    mask = attention_mask[..., None].to(states)
    return (states * mask).sum(1) / mask.sum(1).clamp_min(torch.finfo(states.dtype).tiny)
