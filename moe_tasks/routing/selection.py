"""From router logits to routes: how strongly each task uses each expert of each layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.routing.plan import Mode, RouterGradient

SoftMode = Literal["merge", "mix"]
Noise = Literal["task", "row"]


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
        mode: how layers use the weights (see :data:`~moe_tasks.routing.plan.Mode`).
        gradient: how the router learns from a selected expert.
        differentiable: whether the router learns through the weights at all.
    """

    mode: Mode = "select"
    gradient: RouterGradient = "merge_st"
    differentiable: bool = True

    def by_row(self, training: bool) -> bool:
        """Whether T are the rows of a batch, each with the logits of its task, not its tasks."""
        return False

    def temperature(self, step: int) -> float:
        """Softmax temperature at an optimizer step."""
        return 1.0

    def over(self, steps: int) -> Selection:
        """The selection with whatever depends on the length of training worked out."""
        return self

    def fixed_routes(
        self, num_layers: int, num_tasks: int, num_experts: int, seed: int
    ) -> Tensor | None:
        """Routes ``[L, T, m]`` decided before training, or ``None``.

        Raises:
            UserError: these sizes do not fit the selection.
        """
        return None

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


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape of ``like``."""
    uniform = torch.rand_like(like).clamp_(1e-10, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


@dataclass
class _Learned(Selection):
    """What the selections that a router learns through have in common.

    Attributes:
        temperature_schedule: softmax temperature over the steps of training.
        exploration: probability with which training replaces a layer's route by a random expert.
            (The published code draws an expert in the encoder and averages in the decoder; here
            both draw.)
        noise: whether noise and exploration are drawn per task and step, which keeps a task's
            rows together, or per ``row`` (published).
    """

    temperature_schedule: Annealing = field(default_factory=Annealing)
    exploration: float = 0.0
    noise: Noise = "task"

    def __post_init__(self) -> None:
        if not 0 <= self.exploration <= 1:
            raise ValueError(f"'exploration' is {self.exploration}; it must be from 0 to 1")
        hints = get_type_hints(type(self))
        for name in (f.name for f in fields(self) if f.name in ("noise", "mode", "gradient")):
            valid = get_args(hints[name])
            if getattr(self, name) not in valid:
                raise ValueError(f"{name!r} is {getattr(self, name)!r}; valid: {', '.join(valid)}")

    def by_row(self, training: bool) -> bool:
        return training and self.noise == "row"

    def over(self, steps: int) -> Selection:
        return replace(self, temperature_schedule=self.temperature_schedule.over(steps))

    def temperature(self, step: int) -> float:
        return self.temperature_schedule.at(step)

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        weights = self.weights(logits, self.temperature(step), training)
        if not training or self.exploration == 0:
            return weights
        explore = torch.rand_like(weights[..., :1]) < self.exploration
        return torch.where(explore, one_hot_of_largest(torch.rand_like(weights)), weights)

    def weights(self, logits: Tensor, temperature: float, training: bool) -> Tensor:
        """Weights before exploration."""
        raise NotImplementedError


@register("selection", "gumbel_st")
@dataclass
class GumbelStraightThrough(_Learned):
    """Hard Gumbel-softmax (Jang et al., 1611.01144), the default of 2205.12701.

    Training adds Gumbel noise; the forward pass uses the one-hot of the noisy soft weights and
    the gradient is theirs. Evaluation takes the largest logit, no noise.

    Attributes:
        gradient: ``merge_st``, ``exact`` (published) or ``probe``.
    """

    gradient: RouterGradient = "merge_st"

    def weights(self, logits: Tensor, temperature: float, training: bool) -> Tensor:
        noisy = logits + gumbel_noise(logits) if training else logits
        return _OneHotOfLargest.apply((noisy / temperature).softmax(-1))  # type: ignore[return-value]


@register("selection", "softmax")
@dataclass
class Softmax(_Learned):
    """Plain softmax with temperature.

    Attributes:
        mode: ``merge`` the experts' parameters by these weights, or ``mix`` their outputs
            (published; as many passes as experts).
    """

    mode: SoftMode = "merge"  # type: ignore[assignment]

    def by_row(self, training: bool) -> bool:
        # Where nothing is drawn a task's rows are alike, and mixing does not care. Published
        # gradients go through each row's softmax, which rounds differently when it is saturated.
        drawn = training and (self.exploration > 0 or isinstance(self, Gumbel))
        return super().by_row(training) or (self.mode == "mix" and not drawn)

    def weights(self, logits: Tensor, temperature: float, training: bool) -> Tensor:
        return (logits / temperature).softmax(-1)


@register("selection", "gumbel")
@dataclass
class Gumbel(Softmax):
    """Soft Gumbel-softmax: noise in training, all experts in use. Evaluation has no noise."""

    def weights(self, logits: Tensor, temperature: float, training: bool) -> Tensor:
        noisy = logits + gumbel_noise(logits) if training else logits
        return (noisy / temperature).softmax(-1)


@register("selection", "average")
@dataclass
class Average(Selection):
    """Every expert with weight 1/m: a baseline without a router (2205.12701, section 5.2).

    Attributes:
        mode: ``merge`` or ``mix`` (published).
    """

    mode: SoftMode = "merge"  # type: ignore[assignment]
    differentiable = False

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        return torch.full_like(logits, 1.0 / logits.shape[-1])


@register("selection", "random_row")
@dataclass
class RandomPerRow(Selection):
    """A random expert per row, layer and step (2205.12701, section 5.2).

    All experts thus see all tasks; evaluation uses one route, the same each time.
    """

    differentiable = False

    def by_row(self, training: bool) -> bool:
        return training

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        if training:
            return one_hot_of_largest(torch.rand_like(logits))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(logits.shape[0], 1, logits.shape[-1], generator=generator)
        return one_hot_of_largest(drawn.to(logits).expand_as(logits))


@register("selection", "random_task")
@dataclass
class RandomPerTask(Selection):
    """Per task and layer n random experts out of m, drawn once (2205.12701, section 5.2).

    Attributes:
        n: experts that share a layer; with one, it is selected, with more their outputs are
            mixed in equal parts.
    """

    n: int = 1
    differentiable = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"'n' is {self.n}; it must be at least 1")

    def fixed_routes(
        self, num_layers: int, num_tasks: int, num_experts: int, seed: int
    ) -> Tensor | None:
        if self.n > num_experts:
            raise UserError(
                f"'selection.n' is {self.n}, more than the {num_experts} of 'router.num_experts'"
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(num_layers, num_tasks, num_experts, generator=generator).argsort(-1)
        return (order < self.n).float() / self.n


@register("selection", "fixed")
@dataclass
class Fixed(Selection):
    """The logits are the routes: what routes that were decided before training become.

    Attributes:
        mode: ``select`` where they are one-hot.
    """

    mode: Mode = "select"
    differentiable = False

    def __call__(self, logits: Tensor, *, step: int, training: bool) -> Tensor:
        return logits.detach()
