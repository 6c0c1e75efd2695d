"""From router logits to routes: how strongly each task uses each expert of each layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from moe_tasks.registry import register
from moe_tasks.routing.plan import Mode


@dataclass
class Annealing:
    """Temperature ``max(start * exp(-rate * step), end)`` (2205.12701, appendix; published code).

    Attributes:
        start: temperature at step 0.
        end: smallest temperature.
        rate: decay per optimizer step; ``None`` in a configuration means that ``end`` is reached
            at the last step of training.
    """

    start: float = 2.0
    end: float = 0.1
    rate: float | None = 3e-4

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not getattr(self, name) > 0:
                raise ValueError(f"temperature '{name}' is {getattr(self, name)}; it must be > 0")

    def over(self, steps: int) -> Annealing:
        """The schedule with its rate worked out for a training of ``steps`` steps."""
        if self.rate is not None:
            return self
        return replace(self, rate=math.log(self.start / self.end) / max(steps, 1))

    def at(self, step: int) -> float:
        """Temperature at an optimizer step."""
        if self.rate is None:
            raise ValueError("an annealing schedule without a rate needs over(steps) first")
        return max(self.start * math.exp(-self.rate * step), self.end)


class Selection:
    """Base of selections: ``logits [L, T, m]`` to ``weights [L, T, m]`` that sum to one.

    Attributes:
        mode: how layers use the weights: ``select`` (one expert per row) or ``merge`` (weighted
            sum of the experts' parameters).
        differentiable: whether the router learns through the weights.
    """

    mode: Mode = "select"
    differentiable: bool = True

    def temperature(self, step: int) -> float:
        """Softmax temperature at an optimizer step."""
        return 1.0

    def over(self, steps: int) -> Selection:
        """The selection with whatever depends on the length of training worked out."""
        return self

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        """Weights; random only where ``training``."""
        raise NotImplementedError


class _OneHotOfLargest(torch.autograd.Function):
    """Straight-through estimator: exact one-hot forward, identity backward.

    ``hard - soft.detach() + soft`` is one only up to rounding, and a routed layer would then
    differ from the squeezed one in the last bit.
    """

    @staticmethod
    def forward(ctx: Any, soft: Tensor) -> Tensor:
        return one_hot_of_largest(soft)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def one_hot_of_largest(weights: Tensor) -> Tensor:
    """One-hot of the largest entry along the last axis, same shape and dtype."""
    return torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0)


@register("selection", "gumbel_st")
@dataclass
class GumbelStraightThrough(Selection):
    """Hard Gumbel-softmax (Jang et al., 1611.01144), the default of 2205.12701.

    Training draws Gumbel noise per task, layer and step; the forward pass uses the one-hot of
    the noisy soft weights and the gradient is theirs. Evaluation takes the largest logit, no
    noise.
    """

    temperature_schedule: Annealing = field(default_factory=Annealing)

    mode = "select"

    def over(self, steps: int) -> Selection:
        return replace(self, temperature_schedule=self.temperature_schedule.over(steps))

    def temperature(self, step: int) -> float:
        return self.temperature_schedule.at(step)

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        if not training:
            return one_hot_of_largest(logits)
        uniform = torch.rand_like(logits).clamp_(1e-10, 1 - 1e-7)
        noisy = logits - torch.log(-torch.log(uniform))
        return _OneHotOfLargest.apply((noisy / self.temperature(step)).softmax(-1))  # type: ignore[return-value]


@register("selection", "softmax")
@dataclass
class Softmax(Selection):
    """Plain softmax with temperature; layers merge the experts' parameters by these weights."""

    temperature_schedule: Annealing = field(default_factory=Annealing)

    mode = "merge"

    def over(self, steps: int) -> Selection:
        return replace(self, temperature_schedule=self.temperature_schedule.over(steps))

    def temperature(self, step: int) -> float:
        return self.temperature_schedule.at(step)

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        return (logits / self.temperature(step)).softmax(-1)


@register("selection", "average")
@dataclass
class Average(Selection):
    """Every expert with weight 1/m: the baseline without a router (2205.12701, section 5)."""

    mode = "merge"
    differentiable = False

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        return torch.full_like(logits, 1.0 / logits.shape[-1])
