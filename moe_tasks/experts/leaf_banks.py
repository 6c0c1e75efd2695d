"""Banks of linear layers and norms: every expert's rows in few products, and no module called."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from moe_tasks.experts.bank import ExpertBank
from moe_tasks.experts.grouped import Linears, grouped_linear
from moe_tasks.experts.grouped_norm import grouped_layer_norm, grouped_scale
from moe_tasks.experts.merging import merge
from moe_tasks.experts.routed_layer import RouteSlot
from moe_tasks.routing.plan import LayerRoute


class LinearBank(ExpertBank):
    """m versions of an ``nn.Linear``."""

    # Whether gradients had better wait, as far as the last call tells.
    _defers = True

    def selected_learning(self, x: Tensor, route: LayerRoute) -> Tensor:
        linears, later = self._linears(route), None
        if torch.is_grad_enabled():
            self._defers = linears.outweigh(x)
            if self._defers and route.deferred is not None:
                later = route.deferred.place(self)
        return grouped_linear(x, route, linears, later)

    def _linears(self, route: LayerRoute) -> Linears:
        return Linears(route, self.versions("weight"), self.biases)

    def deferring(self, route: LayerRoute) -> Linears | None:
        return self._linears(route) if self._defers else None

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        return self.selected_learning(x, route)

    def merged(self, x: Tensor, route: LayerRoute) -> Tensor:
        weight = merge(route.weights, self.stack("weight")).mT  # [T, in, out]
        bias = merge(route.weights, self.stack("bias"))[:, None] if self.biases else None
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
        weights, biases = self.versions("weight"), self.biases
        leaf = self._neutral[0]
        if biases is not None and isinstance(leaf, nn.LayerNorm) and _goes_by_task(x, route, leaf):
            return grouped_layer_norm(x, route, weights, biases, leaf.eps)
        return grouped_scale(leaf(x), route, weights, biases)

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        return self.selected_learning(x, route)


def _goes_by_task(x: Tensor, route: LayerRoute, leaf: nn.LayerNorm) -> bool:
    """Whether rows are grouped, learn, and are what the library's kernel takes as they are."""
    grouped = route.order is None and torch.is_grad_enabled()
    return grouped and x.device.type == "cpu" and x.dtype == leaf.weight.dtype


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
