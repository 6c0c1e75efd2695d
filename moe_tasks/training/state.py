"""How far a run is: everything that is neither weights, optimizer, sampler nor random state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_tasks.training.data import Batch


@dataclass(frozen=True)
class TrainResult:
    """What training ended with.

    Attributes:
        step: updates done.
        best_step, best_metric: of the evaluation with the lowest loss; None without evaluation.
        history: one mapping per evaluation: ``step`` and its figures.
        skipped: steps without update, because their gradient was not finite.
        checkpoint: the last checkpoint; None when nothing is written.
        seconds: wall time of this call of ``fit``.
    """

    step: int
    best_step: int | None
    best_metric: float | None
    history: list[dict[str, Any]]
    skipped: int
    checkpoint: Path | None
    seconds: float


@dataclass
class Meter:
    """Sums since the last log record."""

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    rows: int = 0
    tokens: int = 0
    cells: int = 0
    seconds: float = 0.0

    def add(
        self, batches: Sequence[Batch], loss: float, norm: float, seconds: float, good: bool
    ) -> None:
        """One step; loss and norm count only when they are finite (``good``)."""
        if good:
            self.steps += 1
            self.loss += loss
            self.norm += norm
        self.rows += sum(batch.rows for batch in batches)
        self.tokens += sum(batch.tokens for batch in batches)
        self.cells += sum(batch.cells for batch in batches)
        self.seconds += seconds

    def means(self) -> dict[str, float | None]:
        """Means per step and per second; a mean over no step is None."""
        seconds = max(self.seconds, 1e-9)
        return {
            "loss": self.loss / self.steps if self.steps else None,
            "grad_norm": self.norm / self.steps if self.steps else None,
            "rows_per_s": self.rows / seconds,
            "tokens_per_s": self.tokens / seconds,
            "padding": 1 - self.tokens / self.cells if self.cells else 0.0,
        }

    def reset(self) -> None:
        """Begin again at zero."""
        self.__init__()


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        step: updates done.
        closed_step: the last step after which everything due (evaluation, log) was done.
        best_step, best_metric, history, skipped: see ``TrainResult``.
        bad_in_row: how many of the last steps were skipped.
        meter: sums since the last log record.
    """

    step: int = 0
    closed_step: int = 0
    best_step: int | None = None
    best_metric: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0
    bad_in_row: int = 0
    meter: Meter = field(default_factory=Meter)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunState:
        """What ``to_dict`` returned; ``TypeError`` for other keys."""
        return cls(**{**values, "meter": Meter(**values["meter"])})

    def result(self, checkpoint: Path | None, seconds: float) -> TrainResult:
        """The state as a finished run's result."""
        return TrainResult(
            self.step,
            self.best_step,
            self.best_metric,
            list(self.history),
            self.skipped,
            checkpoint,
            seconds,
        )
