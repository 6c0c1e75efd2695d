"""AdamW for models with thousands of parameters, most of which are small parts of few blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_AVERAGES = ("exp_avg", "exp_avg_sq")
# What is updated as one tensor: numbers, gradient, count of steps, both averages.
_Row = tuple[Tensor, ...]


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW, without what torch does anew for every parameter in every step.

    Same arithmetic and state. All parameters have one device and type, so there is nothing to sort
    them by, and their counts of steps lie next to each other, so that one addition raises them. On
    a CPU, neighbours in memory (the versions of a weight) are one tensor where all are updated.

    Attributes:
        grad_scale: what gradients are divided by while they are read, for one step; or ``None``.
    """

    grad_scale: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, fused=True)
        self._families = [_families(group["params"]) for group in self.param_groups]
        self._known: dict[int, _Updated] = {}

    def collect(self) -> list[Collected]:
        """The gradients that are there, as the next update reads them."""
        found = []
        for number, group in enumerate(self.param_groups):
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                updated = self._updated(number, parameters)
                grads = [family.grads() for family in updated.families]
                found.append(Collected(group, updated, grads))
        return found

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient; others keep decay and averages, too."""
        self.apply(self.collect())

    @torch.no_grad()
    def apply(self, collected: Sequence[Collected]) -> None:
        """The same with gradients that are collected already."""
        for own in collected:
            self._update(own)
        self.grad_scale = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._known.clear()

    def restore(self, states: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Continue with these states, and none for other parameters."""
        self.state.clear()
        self._known.clear()
        for parameter, state in states.items():
            self.state[parameter] = dict(state)
        if states:
            counts = torch.stack([state["step"] for state in states.values()])
            for parameter, count in zip(states, counts.unbind(), strict=True):
                self.state[parameter]["step"] = count

    def _update(self, collected: Collected) -> None:
        group, updated = collected.group, collected.updated
        if not updated.counts:
            self._begin([p for p in updated.parameters if p not in self.state])
            updated.counts = joined([self.state[p]["step"] for p in updated.parameters])
        torch._foreach_add_(updated.counts, 1)  # type: ignore[attr-defined]
        pairs = zip(updated.families, collected.grads, strict=True)
        rows = [row for family, grads in pairs for row in family.rows(grads, self.state)]
        parameters, grads, steps, exp_avgs, exp_avg_sqs = map(list, zip(*rows, strict=True))
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(  # type: ignore[attr-defined]
            parameters,
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=self.grad_scale,
        )

    def _updated(self, number: int, parameters: list[nn.Parameter]) -> _Updated:
        """Of a group's parameters; they are mostly those of the step before."""
        ids = [id(parameter) for parameter in parameters]
        if number not in self._known or self._known[number].ids != ids:
            present = set(ids)
            parts = [part for own in self._families[number] for part in self._parts(own, present)]
            self._known[number] = _Updated(ids, parameters, [_Family(part) for part in parts])
        return self._known[number]

    def _begin(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the state of parameters that are updated for the first time."""
        if not parameters:
            return
        counts = torch.zeros(len(parameters), device=parameters[0].device)
        for parameter, count in zip(parameters, counts.unbind(), strict=True):
            self.state[parameter] = {
                "step": count,
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }

    def _parts(self, family: list[nn.Parameter], updated: set[int]) -> list[list[nn.Parameter]]:
        """All of the family, if all are ``updated`` and were equally often; else each alone."""
        present = [parameter for parameter in family if id(parameter) in updated]
        if len(present) == len(family) > 1 and self._equally_often(family):
            return [family]
        return [[parameter] for parameter in present]

    def _equally_often(self, family: list[nn.Parameter]) -> bool:
        counts = {float(self.state[p]["step"]) if p in self.state else 0.0 for p in family}
        return len(counts) == 1


@dataclass
class _Updated:
    """Parameters ``ids`` in their families; once they were updated, ``counts`` of their steps."""

    ids: list[int]
    parameters: list[nn.Parameter]
    families: list[_Family]
    counts: list[Tensor] = field(default_factory=list)  # neighbours as one


@dataclass(frozen=True)
class Collected:
    """Gradients of a parameter group, by family; see :meth:`_Family.grads`."""

    group: Mapping[str, Any]
    updated: _Updated
    grads: list[list[Tensor]]


class _Family:
    """Neighbours in memory with equally many steps behind them, or one parameter."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._places = [parameter.data_ptr() for parameter in parameters]
        self._together = one_piece(parameters) if len(parameters) > 1 else None
        self._averages: list[Tensor] = []  # of all, once they were updated as one

    def grads(self) -> list[Tensor]:
        """One of all, flat, if parameters still lie so, and their gradients do."""
        grads = [p.grad for p in self._parameters if p.grad is not None]  # all have one
        if self._together is not None and self._places == [p.data_ptr() for p in self._parameters]:
            together = one_piece(grads)
            if together is not None:
                return [together]
        return grads

    def rows(self, grads: list[Tensor], states: Mapping[Tensor, dict[str, Tensor]]) -> list[_Row]:
        """As many as there are ``grads``."""
        own = [states[parameter] for parameter in self._parameters]
        if self._together is not None and len(grads) == 1:
            self._averages = self._averages or [_made_one(own, name) for name in _AVERAGES]
            return [(self._together, grads[0], own[0]["step"], *self._averages)]
        return [
            (parameter, grad, state["step"], *(state[name] for name in _AVERAGES))
            for parameter, grad, state in zip(self._parameters, grads, own, strict=True)
        ]


def _families(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours in memory together; on a GPU, where that saves nothing, each alone."""
    if all(p.device.type == "cpu" and p.is_contiguous() for p in parameters):
        return [[parameters[number] for number in piece] for piece in pieces(parameters)]
    return [[parameter] for parameter in parameters]


def _made_one(states: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    """Of several parameters the state of that name, flat; made neighbours, if they are not."""
    parts = [state[name] for state in states]
    flat = one_piece(parts)
    if flat is None:
        flat = torch.cat([part.flatten() for part in parts])
        places = flat.split([part.numel() for part in parts])
        for state, part, place in zip(states, parts, places, strict=True):
            state[name] = place.view(part.shape)
    return flat


def one_piece(tensors: Sequence[Tensor]) -> Tensor | None:
    """Their numbers, flat, if they are contiguous and each lies right after the one before."""
    start = stop = tensors[0].data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != stop or not tensor.is_contiguous():
            return None
        stop += tensor.nbytes
    storage = tensors[0].untyped_storage()
    if stop > storage.data_ptr() + storage.nbytes():  # of another's, that begins there
        return None
    return _stretch(tensors[0], stop - start)


def joined(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The numbers of contiguous ``tensors``, flat; neighbours in one piece of memory as one view.

    Order and cuts follow from the tensors alone, not from where memory happened to be free, so that
    sums over them are the same in every process.
    """
    flat = []
    for piece in pieces(tensors):
        first, last = tensors[piece[0]], tensors[piece[-1]]
        flat.append(_stretch(first, last.data_ptr() + last.nbytes - first.data_ptr()))
    return flat


def pieces(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of the contiguous ``tensors`` in each piece of memory, in the order they lie in."""
    starts = [tensor.data_ptr() for tensor in tensors]
    found: list[list[int]] = []
    stop = limit = -1
    for number in sorted(range(len(tensors)), key=starts.__getitem__):
        start, size = starts[number], tensors[number].nbytes
        if start == stop and start + size <= limit:
            found[-1].append(number)
        else:
            storage = tensors[number].untyped_storage()
            limit = storage.data_ptr() + storage.nbytes()
            found.append([number])
        stop = start + size
    return sorted(found, key=min)


def _stretch(first: Tensor, num_bytes: int) -> Tensor:
    return first.as_strided((num_bytes // first.element_size(),), (1,))
