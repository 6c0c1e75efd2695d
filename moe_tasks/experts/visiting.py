"""The router's gradient by outputs (``exact``, ``probe``) where experts are spread."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from moe_tasks.experts.routed_layer import RouteSlot, hidden_of
from moe_tasks.experts.trips import CallRows, Luggage


class Visitors:
    """What each task's loss would gain if its output moved towards another expert's.

    Rows visit every owner, with their output and its gradient: all of them (``exact``), or the
    first one of each task and process (``probe``). Each owner runs its experts on them, forward
    only, and every process gets back a number per row and expert.
    """

    def __init__(
        self,
        batch: CallRows,
        number: int,
        keys: tuple[int, ...],
        luggage: Luggage,
        slot: RouteSlot,
        here: range,
    ) -> None:
        self._batch, self._number, self._keys = batch, number, keys
        self._luggage, self._slot, self._here = luggage, slot, here
        device = batch.device.type
        self._autocast = torch.is_autocast_enabled(device)
        self._dtype = torch.get_autocast_dtype(device)

    def __call__(self, grad: Tensor, hidden: Tensor) -> Tensor:
        """``dL/dweights [T, m]`` of own rows, relative to the selected expert's."""
        batch = self._batch
        chosen = [self._rows_of(p) for p in range(batch.peers.size)]
        own = chosen[batch.peers.rank]
        gains = self._gains(chosen, grad, hidden)
        tasks = [batch.plan.row_task[row] for row in own]
        selected = torch.tensor([[self._keys[task]] for task in tasks]).to(gains.device)
        gains = gains.scatter(1, selected, 0.0)
        if batch.plan.gradient == "probe":
            counts = torch.tensor([self._real_tasks(batch.peers.rank).count(t) for t in tasks])
            gains = gains * counts[:, None].to(gains)
        total = torch.zeros_like(batch.plan.weights[self._number])
        return total.index_add_(0, torch.tensor(tasks).to(total.device), gains.to(total.dtype))

    def _real_tasks(self, process: int) -> list[int]:
        rows = self._batch.of(process)[: self._batch.rows.real[process]]
        return [self._batch.plan.row_task[row] for row in rows]

    def _rows_of(self, process: int) -> list[int]:
        """Numbers of the rows that a process sends, among the group's."""
        rows = self._batch.of(process)
        if self._batch.plan.gradient == "exact":
            return list(rows)
        tasks = [self._batch.plan.row_task[row] for row in rows]
        return [rows[tasks.index(task)] for task in dict.fromkeys(tasks)]

    def _gains(self, chosen: Sequence[list[int]], grad: Tensor, hidden: Tensor) -> Tensor:
        """``[own chosen rows, m]``"""
        batch, peers, counts = self._batch, self._batch.peers, [len(rows) for rows in chosen]
        first = batch.own.start
        own = torch.tensor(chosen[peers.rank]).to(grad.device) - first
        numbers = torch.tensor([row for rows in chosen for row in rows]).to(grad.device)
        gathered = [
            peers.gather_rows(x.detach().index_select(0, own), counts)
            for x in (grad, hidden, *self._luggage.sent)
        ]
        still = [batch.everyones(x).index_select(0, numbers) for x in self._luggage.still]
        gains = self._of_experts_here(gathered[0], gathered[1], gathered[2:], still)
        by_owner = peers.gather(gains)
        start = sum(counts[: peers.rank])
        mine = by_owner[:, start : start + counts[peers.rank]]  # [owners, rows, experts each]
        return mine.transpose(0, 1).flatten(1)

    def _of_experts_here(
        self, grad: Tensor, hidden: Tensor, sent: Sequence[Tensor], still: Sequence[Tensor]
    ) -> Tensor:
        """``[rows, experts here]``"""
        call, rows = self._luggage.call_with(sent, still), len(grad)
        gains = []
        for expert in self._here:
            with self._casting(), self._slot.holding(expert):
                other = hidden_of(call())
            difference = (other - hidden).reshape(rows, 1, -1)
            gains.append(torch.bmm(difference, grad.reshape(rows, -1, 1)).flatten())
        return torch.stack(gains, 1)

    def _casting(self) -> Any:
        # Backward runs outside the autocast region of forward.
        if not self._autocast:
            return nullcontext()
        return torch.autocast(self._batch.device.type, self._dtype)
