"""AdamW of single parameters while ZeRO holds them flat and divided.

ZeRO 1 and 2 lay a group's parameters end to end and give each process one stretch of them; ZeRO 3
gives each process a part of each parameter, and lays those end to end. To AdamW such a stretch is
one parameter; here it is one *piece* per model parameter, so that an expert without rows is
skipped, with its own count of steps, as in one process, and so that states are known by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe_tasks.engines.ownership import Layout

STATES = ("exp_avg", "exp_avg_sq")
_SETTINGS = ("lr", "betas", "eps", "weight_decay", "fused")


@dataclass(frozen=True)
class Span:
    """Where a parameter lies in its group's flat memory, of which each process has a stretch.

    ``start`` counts from the first process's stretch on, padding not counted.
    """

    group: int
    name: str
    start: int
    shape: torch.Size

    def within(self, place: int, size: int) -> slice:
        """The parameter's own numbers that the stretch ``place`` of length ``size`` holds."""
        return self._numbers(place * size - self.start, size)

    def local(self, place: int, size: int) -> slice:
        """Where in that stretch they lie."""
        within = self.within(place, size)
        start = max(self.start - place * size, 0)
        return slice(start, start + within.stop - within.start)

    def whole(self, stretches: Sequence[Tensor]) -> Tensor:
        """The parameter out of all stretches."""
        parts = [part[self.local(n, len(part))] for n, part in enumerate(stretches)]
        return torch.cat(parts).view(self.shape)

    def _numbers(self, first: int, count: int) -> slice:
        start, stop = (min(max(n, 0), self.shape.numel()) for n in (first, first + count))
        return slice(start, stop)


@dataclass(frozen=True)
class Share(Span):
    """The same where every stretch has ``each`` numbers of the parameter, from ``start`` on."""

    each: int

    def within(self, place: int, size: int) -> slice:
        return self._numbers(place * self.each, self.each)

    def local(self, place: int, size: int) -> slice:
        within = self.within(place, size)
        return slice(self.start, self.start + within.stop - within.start)


class FlatAdamW(torch.optim.Optimizer):
    """What DeepSpeed takes for the optimizer of a model; updates pieces of its flat memory.

    Args:
        like: AdamW over the model's parameters, whose groups and settings are taken over.
        layout: how experts are spread; theirs become groups of their own, divided over the
            processes that have the same ones.
        rate_names: name of the rate of every trainable parameter, also of other processes'.
    """

    def __init__(
        self, like: torch.optim.AdamW, layout: Layout, rate_names: Mapping[str, str]
    ) -> None:
        self._layout, self._rate_names = layout, dict(rate_names)
        groups = [
            {**group, "number": number}
            for number, group in enumerate(_by_owner(like.param_groups, layout))
        ]
        self._settings = {key: like.defaults[key] for key in _SETTINGS}
        super().__init__(groups, dict(like.defaults))
        self.spans: dict[str, Span] = {}
        self.steps: dict[str, int] = {}
        self._pieces: dict[str, nn.Parameter] = {}
        self._places: list[int] = []
        self._flats: list[Tensor] = []
        self._updated: frozenset[str] = frozenset()
        self._inner = torch.optim.AdamW([torch.zeros(0)])

    def cut(self, spans: Mapping[str, Span], stretches: Sequence[Tensor]) -> None:
        """Begin: the groups' parameters are now flat.

        Args:
            spans: of the parameters that this process trains, by name.
            stretches: per group, this process's.
        """
        self._places = [self._place(group) for group in self.param_groups]
        self.spans = dict(spans)
        self._flats = [flat.detach() for flat, _ in zip(stretches, self._places, strict=True)]
        self._pieces = {
            name: nn.Parameter(self._flats[span.group][local])
            for name, span in spans.items()
            if (local := self._local(span)).start < local.stop
        }
        groups = [
            {
                **{key: value for key, value in group.items() if key != "params"},
                "params": [p for n, p in self._pieces.items() if spans[n].group == number],
            }
            for number, group in enumerate(self.param_groups)
        ]
        self._inner = torch.optim.AdamW(groups, **self._settings)

    def prepare(self, used: Collection[str], rates: Mapping[str, float]) -> None:
        """What the next update changes: parameters ``used``, of groups that have a rate."""
        for group in self._inner.param_groups:
            group["lr"] = rates.get(group["rate"], 0.0)
        updated = [name for name in used if self._rate_names[name] in rates]
        self._updated = frozenset(updated)
        for name in updated:
            self.steps[name] = self.steps.get(name, 0) + 1

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the groups that DeepSpeed shows now, one at a time."""
        for group in self.param_groups:
            if not group["params"]:
                continue
            grad = group["params"][0].grad
            for name, piece in self._pieces.items():
                span = self.spans[name]
                if span.group == group["number"] and name in self._updated:
                    piece.grad = grad[self._local(span)]
        self._inner.step()
        self._inner.zero_grad(set_to_none=True)

    def states(self) -> dict[str, Tensor]:
        """States of all parameters that were ever updated, whole, in process 0; a collective."""
        found: dict[str, Tensor] = {}
        for number, key in itertools.product(range(len(self._flats)), STATES):
            for renamed, stretches in self._gathered(number, key):
                for own_name, span in self.spans.items():
                    name = renamed.get(own_name, own_name)
                    if span.group == number and name in self.steps:
                        found[f"optimizer/{name}/{key}"] = span.whole(stretches)
        steps = {f"optimizer/{n}/step": torch.tensor(float(s)) for n, s in self.steps.items()}
        return {**steps, **found}

    def load(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over whole states (``step``, ``exp_avg``, ``exp_avg_sq``) by name."""
        self._inner.state.clear()
        self.steps = {name: int(state["step"]) for name, state in states.items()}
        for name, state in states.items():
            if name in self._pieces:
                piece, within = self._pieces[name], self._within(self.spans[name])
                self._inner.state[piece] = {
                    "step": state["step"].clone(),
                    **{key: state[key].flatten()[within].to(piece.device) for key in STATES},
                }

    def _gathered(self, number: int, key: str) -> list[tuple[dict[str, str], list[Tensor]]]:
        """In process 0, all stretches of a group's state, and what its parameters are called.

        There is one of each owner of experts, whose parameters lie as those of process 0 do.
        """
        own = torch.zeros_like(self._flats[number])
        for name, piece in self._pieces.items():
            span = self.spans[name]
            if span.group == number and piece in self._inner.state:
                own[self._local(span)] = self._inner.state[piece][key]
        parts = None
        if dist.get_rank() == 0:
            parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.gather(own, parts)
        if parts is None:
            return []
        parts = [part.cpu() for part in parts]
        if not self._of_experts(self.param_groups[number]):
            return [({}, parts)]
        owned = self._layout.owned
        return [
            (dict(zip(owned[0], names, strict=True)), parts[owner :: len(owned)])
            for owner, names in enumerate(owned)
        ]

    def _of_experts(self, group: Mapping[str, Any]) -> bool:
        return group.get("moe", False)

    def _place(self, group: Mapping[str, Any]) -> int:
        """This process's place among those that a group is divided over."""
        return self._layout.copy if self._of_experts(group) else self._layout.rank

    def _local(self, span: Span) -> slice:
        """The part of this process's stretch that is the parameter's; empty if none is."""
        return span.local(self._places[span.group], len(self._flats[span.group]))

    def _within(self, span: Span) -> slice:
        """The part of the parameter's own numbers that this process holds."""
        return span.within(self._places[span.group], len(self._flats[span.group]))


def _by_owner(groups: Sequence[Mapping[str, Any]], layout: Layout) -> Iterator[dict[str, Any]]:
    """Groups for DeepSpeed, which finds the processes of a group of experts by its name."""
    for group in groups:
        shared = [p for p in group["params"] if getattr(p, "allreduce", True)]
        experts = [p for p in group["params"] if not getattr(p, "allreduce", True)]
        if shared:
            yield {**group, "rate": group["name"], "params": shared}
        if experts:
            name = layout.group_name
            yield {**group, "rate": group["name"], "name": name, "moe": True, "params": experts}
