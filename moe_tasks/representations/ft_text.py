"""FT-TextEmb: TextEmb by a model that was fine-tuned on the task."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from moe_tasks.registry import register
from moe_tasks.representations.base import VectorContext
from moe_tasks.representations.finetuning import FineTuning, fine_tune
from moe_tasks.representations.text import TextVectors


@register("task_vectors", "ft_text")
@dataclass
class FineTunedTextVectors(TextVectors):
    """``text``, by a copy of the initial model that was fine-tuned on the task's examples first
    (FT-TextEmb of 2205.12701).

    Attributes:
        finetuning: of each copy, on the examples that its states are averaged over.
    """

    finetuning: FineTuning = field(default_factory=FineTuning)

    uses_seed: ClassVar[bool] = True

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        model, pad = copy.deepcopy(context.model), context.pad_token_id
        fine_tune(model, (inputs, outputs), self.finetuning, pad, context.seed)
        return self.encoded(model, inputs, outputs, pad)
