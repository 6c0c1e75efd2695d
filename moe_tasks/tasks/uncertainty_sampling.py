"""Settings of MT-Uncertainty sampling (arXiv 2009.09139, sec. 2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.tasks.sampling import BatchSampler, UniformSampling


@register("sampling", "mt_uncertainty")
@dataclass
class UncertaintySampling(UniformSampling):
    """Draws rows of every task as candidates, of which those that the model is unsure of train.

    Attributes:
        tasks_per_batch: tasks that give candidates; published: all.
        rows_per_task: candidates of each; published: ``rows_per_batch``, at more cost.
        rows_per_batch: b, rows that train.
        formula: ``published``, with the factor task mean / largest task mean; ``paper`` without.
        regression: what scores a number: ``own`` (see
            :func:`~moe_tasks.conditional.uncertainty.numeric_entropy`) or ``zero``, which never
            trains unless it borrows.
        regression_range: smallest and largest number, for ``own``.
        borrow: task -> task whose scores it takes over; published: STS-B takes MRPC's.
        dropout: whether candidates are scored with dropout, as published.
    """

    tasks_per_batch: int = 1_000
    rows_per_task: int = 16
    rows_per_batch: int = 32
    formula: Literal["published", "paper"] = "published"
    regression: Literal["own", "zero"] = "own"
    regression_range: list[float] = field(default_factory=lambda: [0.0, 5.0])
    borrow: dict[str, str] = field(default_factory=dict)
    dropout: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_per_batch < 1:
            raise ValueError(f"rows_per_batch is {self.rows_per_batch}; it must be at least 1")
        if len(self.regression_range) != 2 or not (
            self.regression_range[0] < self.regression_range[1]
        ):
            raise ValueError(
                f"regression_range is {self.regression_range}; expected two rising numbers"
            )

    def batch_size(self, num_tasks: int) -> int:
        """Rows of a batch that train."""
        return self.rows_per_batch

    def candidates(self, pools: Mapping[str, Sequence[int]], seed: int) -> BatchSampler:
        """The sampler of candidates over ``pools`` (task -> row numbers)."""
        return super().build(pools, seed)

    def build(self, pools: Mapping[str, Sequence[int]], seed: int) -> BatchSampler:
        """Refuses: without a model there are candidates only."""
        raise UserError(
            "sampling 'mt_uncertainty' chooses rows by a model's logits over a list of labels; it "
            "is for encoders with heads (moe_tasks.conditional.batches.UncertainBatches)"
        )
