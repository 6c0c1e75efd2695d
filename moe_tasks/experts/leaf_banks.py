"""Banks of linear layers and norms: every expert's rows in few products, and no module called."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from moe_tasks.experts.bank import ExpertBank, versions_of
from moe_tasks.experts.block import Versions
from moe_tasks.experts.grouped import Linears
from moe_tasks.experts.grouped_norm import grouped_layer_norm, grouped_scale
from moe_tasks.experts.merging import merge
from moe_tasks.experts.routed_layer import RouteSlot
from moe_tasks.routing.plan import LayerRoute


class LinearBank(ExpertBank):
    """m versions of an ``nn.Linear``.

    Banks that are given one and the same tensor are computed together (:meth:`lead`): one product
    for all of them, where the first is called; what belongs to the others is kept beside.
    """

    _remade = ExpertBank._remade | {"_alone", "_together"}
    _group: tuple[LinearBank, ...] = ()
    _led = False

    def lead(self, group: Sequence[LinearBank]) -> None:
        """Compute the others of ``group`` along, which are called after this one with its input."""
        self._group = tuple(group)
        for bank in group:
            bank._led = bank is not self
        self.pack()

    def pack(self) -> None:
        super().pack()
        self._alone = Linears(self.versions("weight"), self.biases)
        self._together = _together(self._group) if self._group else None

    def selected_learning(self, x: Tensor, route: LayerRoute) -> Tensor:
        beside = self.slot.beside
        if self._led and self in beside:
            of_x, y = beside.pop(self)
            if of_x is x:
                return y
        together = self._joint(route)
        if together is None:
            return self._own()(x, route)
        parts = together(x, route).split_with_sizes(together.sizes, -1)
        beside.update((bank, (x, y)) for bank, y in zip(self._group, parts, strict=True))
        return beside.pop(self)[1]

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        return self.selected_learning(x, route)

    def deferring(self, route: LayerRoute) -> Iterator[Versions]:
        if self._led:
            return  # the bank that leads speaks for all
        together = self._joint(route)
        group = self._group or (self,)
        each = [bank._own() for bank in group] if together is None else [together]
        for linears in each:
            if linears.wait:
                yield linears.weights
            if linears.biases is not None:
                yield linears.biases

    def _joint(self, route: LayerRoute) -> Linears | None:
        """The layers with one input, if they are all here and lie packed."""
        together = self._together
        if together is None or together in route.prepared:
            return together
        return together if self._all_here and together.packed(route.call) else None

    def _own(self) -> Linears:
        if self._all_here:
            return self._alone
        return Linears(self.versions("weight"), self.biases)

    @property
    def _all_here(self) -> bool:
        return len(self.here) == len(self._alone.weights)

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

    _remade = ExpertBank._remade | {"_together"}

    def pack(self) -> None:
        self._kinds = ["weight", "bias"][: len(self.parameter_names())]
        self._together = versions_of(list(self.experts), self._kinds)
        self._together.pack()
        super().pack()  # finds each of them packed
        neutral = copy.deepcopy(self.experts[0]).requires_grad_(False)
        for name, parameter in neutral.named_parameters():
            parameter.data = _neutral(name, parameter)
        self._neutral = (neutral,)  # in a tuple, so that it is no sub-module

    def selected_learning(self, x: Tensor, route: LayerRoute) -> Tensor:
        versions, leaf = self._together, self._neutral[0]
        if len(self.here) < len(versions):
            versions = versions_of(self.experts_here, self._kinds)
        if len(self._kinds) == 2 and isinstance(leaf, nn.LayerNorm) and _grouped(x, route, leaf):
            return grouped_layer_norm(x, route, versions, leaf)
        return grouped_scale(leaf(x), route, versions)

    def selected(self, x: Tensor, route: LayerRoute) -> Tensor:
        return self.selected_learning(x, route)

    def deferring(self, route: LayerRoute) -> Iterator[Versions]:
        yield self._together  # which :func:`grouped_layer_norm` may leave there


def _grouped(x: Tensor, route: LayerRoute, leaf: nn.LayerNorm) -> bool:
    """Whether rows are grouped, learn, and are what the library's kernel takes as they are."""
    grouped = route.order is None and torch.is_grad_enabled()
    return grouped and x.device.type == "cpu" and x.dtype == leaf.weight.dtype


def _together(banks: Sequence[LinearBank]) -> Linears | None:
    """The layers of ``banks`` as one, in one piece of memory, if they are alike."""
    firsts = [bank.versions("weight").first for bank in banks]
    kinds = {
        (len(bank.experts), bank.biases is None, first.device, first.dtype, first.shape[1:])
        for bank, first in zip(banks, firsts, strict=True)
    }
    if len(kinds) > 1:
        return None
    by_expert = zip(*(bank.experts for bank in banks), strict=True)
    holders = [[leaf._parameters for leaf in leaves] for leaves in by_expert]
    weights, biases = (
        Versions([[(holder, name) for holder in own] for own in holders])
        for name in ("weight", "bias")
    )
    joint = Linears(weights, None if banks[0].biases is None else biases)
    joint.pack()
    return joint


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
