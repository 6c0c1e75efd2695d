"""Task2Vec: which weights a task is sensitive to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.representations.base import VectorContext
from moe_tasks.representations.computed import Representation
from moe_tasks.representations.finetuning import FineTuning, fine_tune
from moe_tasks.representations.lora import LoraLinear, add_lora, recording
from moe_tasks.representations.transformation import Transformation, fit_transformation
from moe_tasks.tasks.tokens import collate
from moe_tasks.training.loss import IGNORED


@register("task_vectors", "fisher")
@dataclass
class FisherVectors(Representation):
    """Diagonal of the empirical Fisher information of LoRA weights (Task2Vec, Achille et al.
    2019, section 2; over adapter weights in 2205.12701): the mean over a task's examples of the
    squared gradients of the log-likelihood of the true output.

    A copy of the initial model is fine-tuned on the examples first, only its LoRA weights; these
    start equal for every task, so that their numbers can be compared. Logarithms of the means go
    through a principal component analysis fitted on the training tasks.

    Attributes:
        dim: at most so many principal components, and one less than there are training tasks.
        rank: of the deltas.
        floor: added before the logarithm; far smaller numbers are all alike.
        finetuning: of the LoRA weights.
    """

    examples: int | None = 32
    dim: int = 128
    rank: int = 4
    floor: float = 1e-8
    finetuning: FineTuning = field(default_factory=FineTuning)

    uses_seed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("dim", "rank"):
            if getattr(self, key) < 1:
                raise ValueError(f"'{key}' is {getattr(self, key)}; it must be at least 1")
        if not 0 < self.floor < 1:
            raise ValueError(f"'floor' is {self.floor}; it must be above 0 and below 1")

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        model, pad = copy.deepcopy(context.model), context.pad_token_id
        layers = add_lora(model, self.rank, context.seed)
        fine_tune(model, (inputs, outputs), self.finetuning, pad, context.seed)
        # Squares of sums that nearly cancel lose half their digits, and the logarithm shows it.
        model.double()
        information = fisher_information(
            model, layers, inputs, outputs, pad, self.finetuning.batch_size
        )
        return torch.log(information + self.floor).float().cpu()

    def transformation(self, raw: Tensor) -> Transformation:
        return fit_transformation(raw, standardise=False, whiten=0.0, dim=self.dim)


def fisher_information(
    model: PreTrainedModel,
    layers: list[LoraLinear],
    inputs: Sequence[numpy.ndarray],
    outputs: Sequence[numpy.ndarray],
    pad_token_id: int,
    batch_size: int,
) -> Tensor:
    """Mean over examples of the squared gradient of log p(output | input), ``[LoRA weights]``.

    One forward and one backward pass per batch: the gradient of one example is a product of what
    went into a layer and the gradient of what came out, summed over that example's tokens.

    Args:
        model: in evaluation mode; any floating type.
        layers: of ``add_lora``; the order of the result is theirs, A before B.
        batch_size: examples per pass; changes memory and time only.

    Raises:
        UserError: the model mixes rows of a batch, so that they have no gradients of their own.
    """
    total: Tensor | float = 0.0
    device = next(model.parameters()).device
    for start in range(0, len(inputs), batch_size):
        chunk = slice(start, start + batch_size)
        batch = collate(inputs[chunk], outputs[chunk], pad_token_id)
        batch = {key: value.to(device) for key, value in batch.items()}
        with recording(layers):
            logits = model(**batch, use_cache=False).logits
            # Not training.loss.token_loss, which works in float32.
            functional.cross_entropy(
                logits.flatten(0, 1),
                batch["labels"].flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            ).backward()
            total = total + _squares(layers, len(batch["labels"]))
        model.zero_grad()
    assert isinstance(total, Tensor)
    return total / len(inputs)


def _squares(layers: list[LoraLinear], rows: int) -> Tensor:
    """Sum over examples of the squares of what the layers recorded."""
    parts = []
    for layer in layers:
        gradients = layer.example_gradients
        if gradients is None:  # not used by this model
            count = layer.lora_a.numel() + layer.lora_b.numel()
            gradients = layer.lora_a.new_zeros(rows, count)
        if len(gradients) != rows:
            raise UserError(
                "task_vectors=fisher: this model does not keep the rows of a batch apart"
            )
        parts.append(gradients.square().sum(0))
    return torch.cat(parts)
