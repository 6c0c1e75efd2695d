"""Which rows of a group of processes are whose, and who computes them in each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tasks.experts.peers import Peers
from moe_tasks.experts.routed_layer import LayerCall
from moe_tasks.routing.plan import LayerRoute, RoutePlan, order_rows, segments_of


@dataclass(frozen=True)
class GroupRows:
    """The rows that a group of processes computes together.

    Attributes:
        task_ids: int64 [G] of all rows, process after process.
        counts: rows of each process, at least two.
        real: how many of them count; the others, at the end, have no targets.
    """

    task_ids: Tensor
    counts: tuple[int, ...]
    real: tuple[int, ...]


class CallRows:
    """What all layers of one call of the model share."""

    def __init__(self, rows: GroupRows, plan: RoutePlan, peers: Peers) -> None:
        self.rows, self.plan, self.peers = rows, plan, peers
        self.starts = [sum(rows.counts[:n]) for n in range(peers.size + 1)]
        self.device = plan.weights.device
        # Filled before, and read in, the backward pass of one layer after the other.
        self.everywhere: dict[Tensor, Tensor] = {}
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def own(self) -> range:
        """Numbers of this process's rows among the group's."""
        return self.of(self.peers.rank)

    def of(self, process: int) -> range:
        """Numbers of a process's rows among the group's."""
        return range(self.starts[process], self.starts[process + 1])

    def everyones(self, x: Tensor) -> Tensor:
        """``[G, ...]`` of all processes' ``x``, which has no gradient; sent once."""
        if id(x) not in self._gathered:
            self._gathered[id(x)] = (x, self.peers.gather_rows(x, self.rows.counts))
        return self._gathered[id(x)][1]


class Luggage:
    """What a layer's call has of the batch's rows.

    Attributes:
        sent: with gradients; and the hidden states, whose place among them is ``hidden``.
        still: without.
    """

    def __init__(self, call: LayerCall, num_rows: int) -> None:
        self._call, self._num_rows = call, num_rows
        found: list[Tensor] = []
        call.of_rows(lambda x: found.append(x) or x, num_rows)
        self._travels = [x is call.hidden or x.requires_grad for x in found]
        pairs = list(zip(found, self._travels, strict=True))
        self.sent = [x for x, travels in pairs if travels]
        self.still = [x for x, travels in pairs if not travels]
        self.hidden = next(n for n, x in enumerate(self.sent) if x is call.hidden)

    def call_with(self, sent: Sequence[Tensor], still: Sequence[Tensor]) -> LayerCall:
        """The same call of other rows."""
        of_sent, of_still = iter(sent), iter(still)
        found = iter([next(of_sent if travels else of_still) for travels in self._travels])
        return self._call.of_rows(lambda _: next(found), self._num_rows)


class Trip:
    """Who visits whom in one layer.

    Attributes:
        order, inverse: of own rows by the process that computes them, and back.
        send, receive: rows to and from each process.
        visitors: numbers [count] of the rows that are computed here among the group's.
        computed: ``count``, or two, if it is less.
    """

    def __init__(self, batch: CallRows, number: int, keys: tuple[int, ...]) -> None:
        peers = batch.peers
        self._row_task, self._keys, self._device = batch.plan.row_task, keys, batch.device
        self._each = batch.plan.weights.shape[-1] // peers.size
        owners = [keys[task] // self._each for task in self._row_task]
        own = list(batch.own)
        order = sorted(range(len(own)), key=lambda row: owners[own[row]])
        self.send = [sum(owners[row] == p for row in own) for p in range(peers.size)]
        came = [
            [row for row in batch.of(p) if owners[row] == peers.rank] for p in range(peers.size)
        ]
        self.receive = [len(rows) for rows in came]
        self._came = [row for rows in came for row in rows]
        self.count = len(self._came)
        self.computed = max(self.count, 2)
        self.order, self.visitors = self._to_device(order, self._came)
        self.inverse = self.order.argsort()

    def route(
        self, here: range, weights: Tensor, everywhere: Mapping[Tensor, Tensor]
    ) -> LayerRoute:
        """The route of the rows that came, of their tasks alone.

        Experts count from the first that is here; the router's gradient counts all.
        """
        rows = self._came if self.count > 1 else self._came * 2
        present = sorted({self._row_task[row] for row in rows})
        row_task = [present.index(self._row_task[row]) for row in rows]
        keys = tuple(self._keys[task] - here.start for task in present)
        order = order_rows(row_task, keys)
        tasks, row_key = [row_task[row] for row in order], [keys[task] for task in row_task]
        device_order, device_task, device_key, device_present = self._to_device(
            order, row_task, row_key, present
        )
        in_place = order == list(range(len(rows)))
        return LayerRoute(
            mode="select",
            gradient="merge_st",
            weights=weights.index_select(0, device_present),
            keys=keys,
            row_task=device_task,
            row_key=device_key,
            order=None if in_place else device_order,
            inverse=None if in_place else device_order.argsort(),
            segments=segments_of([keys[task] for task in tasks]),
            task_segments=segments_of(tasks),
            everywhere=everywhere,
        )

    def _to_device(self, *numbers: list[int]) -> tuple[Tensor, ...]:
        whole = torch.tensor([n for part in numbers for n in part], dtype=torch.int64)
        return whole.to(self._device).split([len(part) for part in numbers])
