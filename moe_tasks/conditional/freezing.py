"""Which of a conditional encoder's parameters train, and how many there are."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from moe_tasks.conditional.conditioned import conditioning_parameters
from moe_tasks.conditional.convert import top_half
from moe_tasks.conditional.model import CAMTL
from moe_tasks.errors import UserError

_LAYER = re.compile(r"backbone\.encoder\.layer\.(\d+)\.")


def freeze_layers(model: CAMTL, layers: str) -> list[str]:
    """Exclude pretrained layers and the embeddings from training, but no conditioning parameter.

    Args:
        layers: ``lower_half``, or first and last number as in ``0-4`` (published for 12 layers;
            ``0-11`` for 24).

    Returns:
        Names of the frozen parameters. (The published code also freezes the FiLM weights of
        conditional attention in these layers; here they train, as the paper says.)

    Raises:
        UserError: not such a key, or layers that the model lacks.
    """
    first, last = _range(model, layers)
    conditioning = set(conditioning_parameters(model))
    frozen = []
    for name, parameter in model.named_parameters():
        found = _LAYER.match(name)
        inside = bool(found) and first <= int(found[1]) <= last
        if name not in conditioning and (inside or name.startswith("backbone.embeddings.")):
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen


def _range(model: CAMTL, layers: str) -> tuple[int, int]:
    count = model.backbone.config.num_hidden_layers
    if layers == "lower_half":
        return 0, top_half(model.backbone) - 1
    match = re.fullmatch(r"(\d+)-(\d+)", layers)
    if match is None or not int(match[1]) <= int(match[2]) < count:
        raise UserError(
            f"'freeze_layers' is {layers!r}; expected lower_half or a range of the layers "
            f"0-{count - 1}"
        )
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters.

    Attributes:
        plain: of the encoder alone, without heads and conditional parts.
        total: of the whole model.
        trained: those that train.
        own: task -> trained ones that serve it alone: its head and its embedding.
    """

    plain: int
    total: int
    trained: int
    own: dict[str, int]

    @property
    def shared(self) -> int:
        """Trained parameters that serve every task."""
        return self.trained - sum(self.own.values())

    @property
    def trained_per_task(self) -> float:
        """Trained parameters over tasks."""
        return self.trained / len(self.own)

    def table(self) -> str:
        """A printable table, with the encoder alone as the unit of the last column."""
        width = max(len("trained per task"), *map(len, self.own))
        rows = {
            "encoder": self.plain,
            "model": self.total,
            "trained": self.trained,
            "trained, shared": self.shared,
            **self.own,
            "trained per task": self.trained_per_task,
        }
        lines = [f"{'parameters':{width}}  {'count':>13}  of encoder"]
        shown = [f"{k:{width}}  {v:>13,.0f}  {v / self.plain:.4f}" for k, v in rows.items()]
        return "\n".join(lines + shown)


def parameter_counts(model: CAMTL) -> ParameterCounts:
    """Count ``model``'s parameters as they are frozen now."""
    conditioning = set(conditioning_parameters(model))
    named = dict(model.named_parameters())
    plain = [p for n, p in named.items() if n.startswith("backbone.") and n not in conditioning]
    embedding = model.task_embedding
    width = 0
    if embedding is not None and embedding.weight.requires_grad:
        width = embedding.weight.shape[1]
    own = {
        task: width + _trained(head)
        for task, head in zip(model.task_names, model.heads, strict=True)
    }
    total = sum(p.numel() for p in named.values())
    return ParameterCounts(sum(p.numel() for p in plain), total, _trained(model), own)


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
