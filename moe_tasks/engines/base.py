"""What the training loop asks of the place where the arithmetic of a step runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from moe_tasks.engines.processes import Processes
from moe_tasks.training.data import Batch
from moe_tasks.training.model import Trainable


class OutOfMemory(Exception):
    """Not even single rows fit into memory."""


class Engine(Protocol):
    """Gradients and updates of one model, on one device or on many.

    Where there are several processes, each makes the same calls in the same order, with the same
    batches: what is drawn is the same everywhere, and the engine divides the rows.

    Attributes:
        model: has the present weights after ``complete``, and may then be evaluated by each
            process alone that has them.
        processes: that train together.
        device: of this process.
        splits: parts that each batch is cut into; doubled whenever memory runs out.
    """

    model: Trainable
    processes: Processes
    device: torch.device
    splits: int

    def backward(self, batches: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the mean loss per target token over all ``batches``.

        Where memory runs out, the batches are cut into smaller parts and the step starts again
        from the same random state: same effective batch, same gradients.

        Returns:
            Loss (nats per token) and norm of the gradients, scalars, equal in all processes.

        Raises:
            OutOfMemory: single rows do not fit.
        """
        ...

    def update(self, rates: Mapping[str, float], norm: float | None = None) -> None:
        """Clip the gradients that ``backward`` left and update the groups that have a rate.

        Args:
            norm: of the gradients, if the caller has it: short ones are then not even read.
        """
        ...

    def zero_gradients(self) -> None:
        """Forget all gradients."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Optimizer state by parameter name, and the random generators' state.

        All processes take part; what is returned is complete in the main one only.
        """
        ...

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from what ``tensors`` of any engine returned.

        Raises:
            ValueError: a state belongs to no parameter, or has another shape.
        """
        ...

    def load_model(self, path: Path) -> None:
        """Load what ``save_model`` of any engine wrote."""
        ...

    def save_model(self, path: Path) -> None:
        """Write the model's files into an existing empty folder; the main process alone, after
        ``complete`` or ``tensors``."""
        ...

    def complete(self) -> bool:
        """Give the main process's model all present weights until the next ``backward``.

        All processes take part; ``tensors`` does it, too.

        Returns:
            Whether all processes have them now.
        """
        ...


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or the machine has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def advice(batches: Sequence[Batch], error: RuntimeError) -> str:
    """What to do where single rows do not fit."""
    longest = max(batches, key=lambda batch: batch.cells / batch.rows)
    return (
        f"not even single rows fit into memory (inputs {list(longest.inputs['input_ids'].shape)}, "
        f"tasks {', '.join(longest.tasks)}): {str(error).splitlines()[0]}. "
        "Shorten the rows or set training.gradient_checkpointing=true"
    )


def checkpoint_gradients(model: Any) -> None:
    """Let the model recompute activations in the backward pass."""
    backbone_of(model).gradient_checkpointing_enable({"use_reentrant": False})


def backbone_of(model: Any) -> PreTrainedModel:
    """The Hugging Face model inside ``model``; ``ValueError`` if there is none."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError("the model holds no Hugging Face model")


def check_state(key: str, value: torch.Tensor, shapes: Mapping[str, torch.Size]) -> tuple[str, str]:
    """Name of the parameter and of its state that the key ``optimizer/<name>/<field>`` means.

    Raises:
        ValueError: there is no such parameter, or ``value`` has another shape.
    """
    name, _, field = key.removeprefix("optimizer/").rpartition("/")
    if name not in shapes:
        raise ValueError(f"optimizer state of unknown parameter {name!r}")
    if field != "step" and value.shape != shapes[name]:
        raise ValueError(f"optimizer state of {name!r} has shape {list(value.shape)}")
    return name, field
