"""What the training loop asks of a model; every system, dense or routed, answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn


class Trainable(Protocol):
    """An ``nn.Module`` that knows its tasks.

    Attributes:
        task_names: in the order of the task ids.
        training: torch's flag.
    """

    task_names: tuple[str, ...]
    training: bool

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        task_ids: torch.Tensor,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> Any:
        """A model output with ``loss`` and ``logits``.

        Args:
            input_ids, attention_mask: int64 [B, S].
            labels: int64 [B, T], -100 where there is no target.
            task_ids: int64 [B], positions in ``task_names``.
        """
        ...

    def loss(
        self, inputs: Mapping[str, torch.Tensor], label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Summed loss of a batch's targets in nats, float32, scalar.

        Args:
            inputs: what ``__call__`` takes, and perhaps ``weights`` [B] of the rows.
        """
        ...

    def set_step(self, step: int) -> None:
        """Anneal to ``step`` (the temperature of a routed model); dense models do nothing."""
        ...

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by group: ``model``, ``router``, ``task_vectors``."""
        ...

    def expert_distance(self) -> torch.Tensor:
        """How far a layer's experts are apart, summed over layers, scalar; 0 without experts."""
        ...

    def monitor(self) -> dict[str, float]:
        """Figures for the log: ``temperature``, ``route_entropy`` (nats), ``route_collapse``."""
        ...

    def save(self, path: Path) -> None:
        """Write the model's files into an existing empty folder."""
        ...

    def load_weights(self, path: Path) -> None:
        """Load what ``save`` wrote, refusing missing and unknown keys."""
        ...

    def train(self, mode: bool = True) -> Any:
        """``nn.Module.train``."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``nn.Module.named_parameters``."""
        ...
