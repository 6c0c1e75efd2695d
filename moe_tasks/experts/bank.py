"""Banks: one leaf of a Transformer layer, m times.

A bank holds m copies of a leaf module (``nn.Linear``, a norm, ...) and reads the slot of the
layer it belongs to, in which that layer puts its :class:`~moe_tasks.routing.plan.LayerRoute`
for the time of one call. Each expert keeps its own parameters, so that one without rows has no
gradient, costs the optimizer nothing, and is one tensor in a checkpoint.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from moe_tasks.experts.block import Blocks, Versions, pack
from moe_tasks.experts.grouped import grouped_linear, grouped_scale
from moe_tasks.experts.merging import SelectParameters, merge
from moe_tasks.experts.routed_layer import RouteSlot
from moe_tasks.routing.plan import LayerRoute, Segment


class ExpertBank(nn.Module):
    """m versions of any leaf whose first input has the batch's rows in its first dimension.

    Args:
        leaf: the pretrained module; every expert starts as its copy.
        num_experts: m.
        slot: shared by all banks of one layer.

    Attributes:
        here: numbers of the experts that are in this process: all, unless they are spread
            (:mod:`moe_tasks.engines.ownership`). Routes in the slot count from the first of them.
    """

    def __init__(self, leaf: nn.Module, num_experts: int, slot: RouteSlot) -> None:
        super().__init__()
        copies = [leaf, *(copy.deepcopy(leaf) for _ in range(num_experts - 1))]
        self.experts = nn.ModuleList(copies)
        self.here = range(num_experts)
        self.slot = slot
        self.pack()

    def pack(self) -> None:
        """Let all versions of a parameter lie in one piece of memory."""
        self._blocks = Blocks()
        self._has_bias = "bias" in self.parameter_names()
        for name in self.parameter_names():
            pack(self.stack(name))

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)  # e.g. .to(device), which moves each parameter
        self.pack()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # a copy's parameters have been copied one by one
        self.pack()

    def __getattr__(self, name: str) -> Any:
        """What a leaf offers besides ``forward`` (``weight``, ``in_features``), of expert 0.

        Modelling code looks at it, e.g. T5 at ``wo.weight.dtype``.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "experts":
                raise
            experts: Any = super().__getattr__("experts")
            return getattr(experts[0], name)

    def forward(self, x: Tensor) -> Tensor:
        route = self.slot.read()
        if isinstance(route, int):
            return self.experts[route](x)
        if route.mode == "merge":
            return self.merged(x, route)
        if route.learns:
            return self.selected_learning(x, route)
        if len(route.segments) == 1:  # bit for bit what the plain leaf does
            return self._expert(route.segments[0].key)(x)
        return self.selected(x, route)

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        """Each row through its expert; no gradient for the route."""
        return _by_segment(x, route, route.segments, lambda s, rows: self._expert(s.key)(rows))

    def selected_learning(self, x: Tensor, route: LayerRoute) -> Tensor:
        """Each row through its expert, with the ``merge_st`` gradient for the route."""
        chosen = {
            name: SelectParameters.apply(route.weights, route, *self.stack(name))
            for name in self.parameter_names()
        }
        return self._per_task(x, route, chosen)

    def merged(self, x: Tensor, route: LayerRoute) -> Tensor:
        """Each row through the route-weighted sum of the experts' parameters."""
        merged = {name: merge(route.weights, self.stack(name)) for name in self.parameter_names()}
        return self._per_task(x, route, merged)

    def _per_task(self, x: Tensor, route: LayerRoute, parameters: dict[str, Tensor]) -> Tensor:
        def call(segment: Segment, rows: Tensor) -> Tensor:
            own = {name: stacked[segment.key] for name, stacked in parameters.items()}
            return functional_call(self.experts[0], own, (rows,))

        return _by_segment(x, route, route.task_segments, call)

    def parameter_names(self) -> list[str]:
        return [name for name, _ in self.experts[0].named_parameters()]

    def stack(self, name: str) -> list[nn.Parameter]:
        """The parameter of that name of every expert that is here."""
        if len(self.here) < len(self.experts):
            return [self.experts[expert].get_parameter(name) for expert in self.here]
        if "." in name:
            return [expert.get_parameter(name) for expert in self.experts]
        experts = self._modules["experts"]._modules.values()  # type: ignore[union-attr]
        return [expert._parameters[name] for expert in experts]  # type: ignore[misc,union-attr]  # five times as fast, and called for every leaf

    def versions(self, name: str) -> Versions:
        """The same, for the functions of :mod:`moe_tasks.experts.grouped`."""
        return Versions(name, self.stack(name), self._blocks)

    def _expert(self, key: int) -> nn.Module:
        return self.experts[self.here[key]]

    def keep(self, experts: Sequence[int]) -> None:
        """Drop all experts but these, which are numbered anew."""
        self.experts = nn.ModuleList(self.experts[expert] for expert in experts)
        self.here = range(len(self.experts))
        self.pack()

    def squeezed(self, weights: Tensor, mode: str) -> nn.Module:
        """A plain leaf holding what a task with route ``weights [m]`` uses.

        The outputs of ``mix`` are no single leaf's; merged parameters come nearest.
        """
        leaf = copy.deepcopy(self.experts[int(weights.argmax())])
        if mode != "select":
            with torch.no_grad():
                for name, parameter in leaf.named_parameters():
                    parameter.copy_(merge(weights[None], self.stack(name))[0])
        return leaf


class LinearBank(ExpertBank):
    """m versions of an ``nn.Linear``."""

    def selected_learning(self, x: Tensor, route: LayerRoute) -> Tensor:
        biases = self.versions("bias") if self._has_bias else None
        return grouped_linear(x, route, self.versions("weight"), biases)

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        if decodes(x, route) and len(route.keys) <= len(self.here):
            return self._decoded(x, route)
        return self.selected_learning(x, route)

    def _decoded(self, x: Tensor, route: LayerRoute) -> Tensor:
        """One token of every row: rows stay, and their tasks' weights are laid out as they lie."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        kept = route.kept.get(self)
        if kept is None:
            kept = route.kept[self] = [
                route.chosen(self.versions(name).block.to(x.dtype))
                for name in self.parameter_names()
            ]
        rows = x.view(len(route.keys), route.rows_each, -1)
        weight, *bias = kept  # [T, out, in], [T, out]
        y = torch.bmm(rows, weight.mT)
        return (y + bias[0][:, None] if bias else y).view(len(x), 1, -1)

    def merged(self, x: Tensor, route: LayerRoute) -> Tensor:
        weight = merge(route.weights, self.stack("weight")).mT  # [T, in, out]
        bias = merge(route.weights, self.stack("bias"))[:, None] if self._has_bias else None
        x, parts = route.gather(x), []
        for block in route.blocks:
            tasks = slice(block.key, block.key + block.count)
            rows = x[block.start : block.stop].reshape(block.count, -1, x.shape[-1])
            if bias is None:
                y = torch.bmm(rows, weight[tasks])
            else:
                y = torch.baddbmm(bias[tasks], rows, weight[tasks])
            parts.append(y.view(-1, *x.shape[1:-1], y.shape[-1]))
        return route.scatter(parts[0] if len(parts) == 1 else torch.cat(parts))


class NormBank(ExpertBank):
    """m versions of a norm whose output is ``normalised(x) * weight (+ bias)``."""

    def pack(self) -> None:
        super().pack()
        neutral = copy.deepcopy(self.experts[0]).requires_grad_(False)
        for name, parameter in neutral.named_parameters():
            parameter.data = _neutral(name, parameter)
        self._neutral = (neutral,)  # in a tuple, so that it is no sub-module

    def selected_learning(self, x: Tensor, route: LayerRoute) -> Tensor:
        biases = self.versions("bias") if self._has_bias else None
        return grouped_scale(self._neutral[0](x), route, self.versions("weight"), biases)

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        if not decodes(x, route):
            return self.selected_learning(x, route)
        kept = route.kept.get(self)
        if kept is None:
            names = ("weight", "bias") if self._has_bias else ("weight",)
            blocks = [self.versions(name).block.to(x.dtype) for name in names]
            kept = route.kept[self] = [b.index_select(0, route.row_key)[:, None] for b in blocks]
        y, (weight, *bias) = self._neutral[0](x), kept  # [B, 1, D] each
        return torch.addcmul(bias[0].to(y.dtype), y, weight.to(y.dtype)) if bias else y * weight


def expert_distance(model: nn.Module) -> Tensor:
    """Sum over layers of the mean over pairs of experts of the summed L2 norms of their parameters'
    differences, scalar: the expert regularisation of 2205.12701's code."""
    total = torch.zeros(())
    for bank in model.modules():
        if isinstance(bank, ExpertBank):
            pairs = list(itertools.combinations(range(len(bank.experts)), 2))
            for name in bank.parameter_names() if pairs else ():
                stack = bank.stack(name)
                norms = torch.stack([(stack[a] - stack[b]).norm() for a, b in pairs])
                total = total.to(norms.device) + norms.mean()
    return total


def make_bank(leaf: nn.Module, num_experts: int, slot: RouteSlot) -> ExpertBank:
    """The fastest bank that fits ``leaf``."""
    if isinstance(leaf, nn.Linear):
        return LinearBank(leaf, num_experts, slot)
    if is_affine_norm(leaf):
        return NormBank(leaf, num_experts, slot)
    return ExpertBank(leaf, num_experts, slot)


@torch.no_grad()
def is_affine_norm(leaf: nn.Module) -> bool:
    """Whether ``leaf(x) == leaf(x; weight=1, bias=0) * weight + bias``, tried out.

    Families differ in secret: Gemma's norm multiplies by ``1 + weight``.
    """
    parameters = dict(leaf.named_parameters())
    if "weight" not in parameters or not set(parameters) <= {"weight", "bias"}:
        return False
    if any(p.dim() != 1 for p in parameters.values()):
        return False
    generator = torch.Generator().manual_seed(0)
    some = {k: torch.rand(p.shape, generator=generator).to(p) + 0.5 for k, p in parameters.items()}
    x = torch.randn(3, parameters["weight"].shape[0], generator=generator).to(parameters["weight"])
    plain = functional_call(leaf, {k: _neutral(k, p) for k, p in parameters.items()}, (x,))
    expected = plain * some["weight"] + some.get("bias", 0.0)
    return torch.allclose(functional_call(leaf, some, (x,)), expected, rtol=1e-4, atol=1e-5)


def _neutral(name: str, parameter: Tensor) -> Tensor:
    return torch.ones_like(parameter) if name == "weight" else torch.zeros_like(parameter)


def decodes(x: Tensor, route: LayerRoute) -> bool:
    """Whether ``x [B, 1, D]`` is one position of rows that a cache holds in the batch's order.

    A route's plan lives as long as one call of ``generate``, so what is kept with it is not stale.
    """
    one_position = x.dim() == 3 and x.shape[1] == 1
    return one_position and route.rows_each > 0 and not torch.is_grad_enabled()


def _by_segment(
    x: Tensor,
    route: LayerRoute,
    segments: Sequence[Segment],
    call: Callable[[Segment, Tensor], Tensor],
) -> Tensor:
    if len(segments) == 1:
        return call(segments[0], x)
    x = route.gather(x)
    return route.scatter(torch.cat([call(s, x[s.start : s.stop]) for s in segments]))
