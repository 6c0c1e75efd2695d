"""What heads of all kinds share: configuration, parameters, the mean of their losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from moe_tasks.conditional.modules import new_linear
from moe_tasks.errors import UserError

Kind = Literal["classification", "regression", "tokens", "span"]


@dataclass(frozen=True)
class HeadConfig:
    """A task's head.

    Attributes:
        kind: ``classification`` and ``regression`` read the pooled state, ``tokens`` each state,
            ``span`` each state as an answer's first and as its last token.
        num_labels: classes; 1 for regression, 2 for a span.
        center, scale: of a regression: the number that the linear layer's 0 stands for, and how
            much its 1 is. Its loss is in squared scales.
    """

    kind: Kind = "classification"
    num_labels: int = 2
    center: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind == "regression" and self.num_labels != 1:
            raise ValueError(f"'num_labels' is {self.num_labels}; a regression head has 1")
        if self.kind != "regression" and self.num_labels < 2:
            raise ValueError(f"'num_labels' is {self.num_labels}; a {self.kind} head has 2 or more")
        if not (math.isfinite(self.center) and 0 < self.scale < math.inf):
            raise ValueError(f"'center' {self.center} and 'scale' {self.scale} are no unit")


class LabelledHead(nn.Module):
    """Dropout and one linear layer over an encoder's states.

    Args:
        name: of the task, for messages.
        dropout: 0.1 in arXiv 2009.09139.
    """

    def __init__(
        self, name: str, config: HeadConfig, width: int, std: float, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.dropout = nn.Dropout(dropout)
        self.linear = new_linear(width, config.num_labels, std)

    def losses(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Each row's summed loss, float32 ``[B]``, and how many labels it has ``[B]``."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over what has a label, float32, scalar.

        Raises:
            UserError: nothing has a label, or as :meth:`losses`.
        """
        losses, counts = self.losses(logits, labels)
        if counts.device.type == "cpu" and not bool(counts.any()):
            raise UserError(f"task {self.name!r}: none of its rows in the batch has a label")
        return losses.sum() / counts.sum()
