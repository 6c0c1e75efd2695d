"""Whole rows travel to the process that has their expert, and come back (expert parallelism).

Each process of a group (:class:`~moe_tasks.experts.peers.Peers`) has a run of every layer's
experts. A row's hidden states, and for decoder layers the encoder's, go to the owner of the expert
that the row's task selected. Routes belong to tasks: every process makes the plan of the whole
group's rows, with the same random numbers, and so knows all sizes without asking. What has the
batch's rows but no gradient (masks) is gathered once per call of the model.

What the router learns from: ``merge_st`` compares a task's weight gradient, which arises at the
owner, with all experts, so each layer's experts are gathered for the time of its backward pass.
``exact`` and ``probe`` send the outputs' gradients, with the inputs, to all owners (of every row,
or of one row per task), who return one number per row and expert.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.experts.bank import banks_of
from moe_tasks.experts.block import block_of
from moe_tasks.experts.peers import Peers, Sent
from moe_tasks.experts.routed_layer import (
    LayerCall,
    ProbedGradient,
    RemoteRoute,
    RouteSlot,
    call_routed,
    hidden_of,
    rows_changed,
    with_hidden,
)
from moe_tasks.experts.trips import CallRows, GroupRows, Luggage, Trip
from moe_tasks.experts.visiting import Visitors
from moe_tasks.routing.plan import LayerRoute, RoutePlan, permuted


def spread_plan(plan: RoutePlan, rows: GroupRows, peers: Peers) -> RoutePlan:
    """The plan of this process's rows, made from that of the group's.

    Raises:
        RuntimeError: the processes have different routes.
    """
    keys = plan.weights.detach().argmax(-1).tolist()  # [L, T]
    _require_same_routes(keys, peers, plan.weights.device)
    batch = CallRows(rows, plan, peers)
    layers: Any = tuple(_Away(batch, number, tuple(own)) for number, own in enumerate(keys))
    return dataclasses.replace(plan, layers=layers)


def _require_same_routes(keys: list[list[int]], peers: Peers, device: torch.device) -> None:
    code = zlib.crc32(repr(keys).encode())
    codes = peers.gather(torch.tensor([code], device=device)).flatten().tolist()
    if len(set(codes)) > 1:
        raise RuntimeError(
            f"the processes of an expert-parallel group have different routes ({codes}): their "
            "routers or random numbers differ"
        )


class _Away(RemoteRoute):
    """One layer's share of the plan; ``keys`` are the tasks' experts."""

    def __init__(self, batch: CallRows, number: int, keys: tuple[int, ...]) -> None:
        self.batch, self.number, self.keys = batch, number, keys
        self.learns = batch.plan.weights.requires_grad

    @cached_property
    def trip(self) -> Trip:
        return Trip(self.batch, self.number, self.keys)

    def call(self, layer: nn.Module, call: LayerCall, slot: RouteSlot) -> Any:
        batch, trip, num_rows = self.batch, self.trip, len(self.batch.own)
        luggage = Luggage(call, num_rows)
        anchor = torch.zeros((), device=batch.device, requires_grad=True)
        ordered = [permuted(x, trip.order, trip.inverse) for x in luggage.sent]
        received = Sent.apply(batch.peers, trip.send, trip.receive, None, anchor, *ordered)
        output, parts = self._visited(layer, luggage, received, slot)
        gather = self._gather(layer) if self.learns and self._merges else None
        back = Sent.apply(batch.peers, trip.receive, trip.send, gather, anchor, *parts)
        home = iter([permuted(x, trip.inverse, trip.order) for x in back])  # type: ignore[union-attr]
        output = rows_changed(output, lambda _: next(home), trip.computed)
        if not self.learns or self._merges:
            return output
        here = next(banks_of(layer)).here
        visitors = Visitors(batch, self.number, self.keys, luggage, slot, here)
        weights = batch.plan.weights[self.number]
        return with_hidden(output, ProbedGradient.apply(hidden_of(output), weights, visitors))

    @property
    def _merges(self) -> bool:
        return self.batch.plan.gradient == "merge_st"

    def _visited(
        self, layer: nn.Module, luggage: Luggage, received: Sequence[Tensor], slot: RouteSlot
    ) -> tuple[Any, list[Tensor]]:
        """The layer's output for the rows that came, and all of it that goes back.

        A layer is never called on fewer than two rows: what has no rows then has another length.
        """
        batch, trip = self.batch, self.trip
        still = [batch.everyones(x).index_select(0, trip.visitors) for x in luggage.still]
        if trip.count == 0:  # only so that what the layer returns beside rows is there
            call = luggage.call_with(
                [x[:2].detach() for x in luggage.sent], [x[:2] for x in luggage.still]
            )
            with slot.holding(next(banks_of(layer)).here[0]):
                output = call()
        else:
            sent = [_at_least_two(x) for x in received]
            call = luggage.call_with(sent, [_at_least_two(x) for x in still])
            output = call_routed(layer, call, self._route(layer), slot)
        parts: list[Tensor] = []
        rows_changed(output, lambda x: parts.append(x) or x, trip.computed)
        if trip.count == 0:
            hidden = received[luggage.hidden].to(parts[0].dtype)  # as many as go back: none
            parts = [hidden, *parts[1:]]
        return output, [x[: trip.count] for x in parts]

    def _route(self, layer: nn.Module) -> LayerRoute:
        weights = self.batch.plan.weights[self.number]
        weights = weights if self._merges else weights.detach()
        return self.trip.route(next(banks_of(layer)).here, weights, self.batch.everywhere)

    def _gather(self, layer: nn.Module) -> Any:
        """What brings all experts of ``layer`` here."""
        batch, banks = self.batch, list(banks_of(layer))

        def gather() -> None:
            blocks = [
                (stack[0], block_of(stack))
                for bank in banks
                for stack in (bank.stack(name) for name in bank.parameter_names())
            ]
            flat = torch.cat([block.reshape(-1) for _, block in blocks])
            every = batch.peers.gather(flat).split([b.numel() for _, b in blocks], 1)
            batch.everywhere.clear()
            for (first, block), found in zip(blocks, every, strict=True):
                batch.everywhere[first] = found.reshape(-1, *block.shape[1:])

        return gather


def _at_least_two(x: Tensor) -> Tensor:
    return x if len(x) > 1 else torch.cat([x, x])
