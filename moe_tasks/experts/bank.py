"""Banks: one leaf of a Transformer layer, m times.

A bank holds m copies of a leaf module (``nn.Linear``, a norm, ...) and reads the slot of the
layer it belongs to, in which that layer puts its :class:`~moe_tasks.routing.plan.LayerRoute`
for the time of one call. Each expert keeps its own parameters, so that one without rows has no
gradient, costs the optimizer nothing, and is one tensor in a checkpoint.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from moe_tasks.experts.block import Versions
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

    _remade = frozenset({"_versions"})  # by ``pack``, in a copy

    def __init__(self, leaf: nn.Module, num_experts: int, slot: RouteSlot) -> None:
        super().__init__()
        copies = [leaf, *(copy.deepcopy(leaf) for _ in range(num_experts - 1))]
        self.experts = nn.ModuleList(copies)
        self.here = range(num_experts)
        self.slot = slot
        self.pack()

    def pack(self) -> None:
        """Let all versions of a parameter lie in one piece of memory."""
        experts = list(self.experts)
        self._versions = {name: versions_of(experts, [name]) for name in self.parameter_names()}
        for versions in self._versions.values():
            versions.pack()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)  # e.g. .to(device), which moves each parameter
        self.pack()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in self._remade}

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

    def deferring(self, route: LayerRoute) -> Iterator[Versions]:
        """Parameters whose gradients, of calls under ``route``, had better be worked out later."""
        return iter(())

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
        return self.versions(name).parameters

    def versions(self, name: str) -> Versions:
        """The same, for the functions of :mod:`moe_tasks.experts.grouped`."""
        all_of_them = self._versions[name]
        if len(self.here) == len(all_of_them):
            return all_of_them
        return versions_of(self.experts_here, [name])

    @property
    def biases(self) -> Versions | None:
        return self.versions("bias") if "bias" in self._versions else None

    @property
    def experts_here(self) -> list[nn.Module]:
        return [self.experts[expert] for expert in self.here]

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


def versions_of(experts: Sequence[nn.Module], names: Sequence[str]) -> Versions:
    """The parameters of these names of each expert."""
    paths = [name.rpartition(".") for name in names]
    return Versions(
        [
            [(expert.get_submodule(path)._parameters, last) for path, _, last in paths]
            for expert in experts
        ]
    )


def banks_of(module: nn.Module) -> Iterator[ExpertBank]:
    """The banks inside ``module``."""
    for child in module.children():
        if isinstance(child, ExpertBank):
            yield child
        else:
            yield from banks_of(child)


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
