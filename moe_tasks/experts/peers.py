"""Sending rows between the processes that share a model's experts, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Calling = Callable[[str], AbstractContextManager[None]]
CALL = "dispatch"


class Peers:
    """The processes that together have all experts, each an equal run of them.

    Args:
        group: torch's.
        rank, size: this process's place among how many.
        calling: around each collective call, so that one that hangs is named.

    Attributes:
        sent: bytes that this process has sent to others.
    """

    def __init__(
        self, group: Any, rank: int, size: int, calling: Calling = lambda _: nullcontext()
    ) -> None:
        self.group, self.rank, self.size, self._calling = group, rank, size, calling
        self.sent = 0

    def own(self, num_experts: int) -> range:
        """The experts of this process, of one layer's ``num_experts``."""
        each = num_experts // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def exchange(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """``x [sum(send), ...]``, rows by receiver, to ``[sum(receive), ...]``, rows by sender."""
        found = x.new_empty(sum(receive), *x.shape[1:])
        with self._calling(CALL):
            dist.all_to_all_single(
                found, x.contiguous(), list(receive), list(send), group=self.group
            )
        self.sent += (len(x) - send[self.rank]) * _row_bytes(x)
        return found

    def gather(self, x: Tensor) -> Tensor:
        """Every process's ``x``, equal in shape, ``[size, ...]``."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with self._calling(CALL):
            dist.all_gather(parts, x.contiguous(), group=self.group)
        self.sent += (self.size - 1) * x.numel() * x.element_size()
        return torch.stack(parts)

    def gather_rows(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Every process's ``x [count, ...]`` one after the other, ``[sum(counts), ...]``."""
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        if x.dtype == torch.bool:  # not every backend sends it
            return self.gather_rows(x.to(torch.uint8), counts).to(torch.bool)
        parts = self.gather(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class Sent(torch.autograd.Function):
    """Differentiable :meth:`Peers.exchange` of several tensors.

    ``anchor`` requires a gradient, so that backward takes place in all processes or in none,
    whatever the rows of one need. It is saved for a second reason: with gradient checkpointing,
    reading it starts the recomputation, which sends rows too, at the same place everywhere.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        peers: Peers,
        send: Sequence[int],
        receive: Sequence[int],
        before_backward: Callable[[], None] | None,
        anchor: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.peers, ctx.send, ctx.receive, ctx.before = peers, send, receive, before_backward
        ctx.save_for_backward(anchor)
        return tuple(peers.exchange(x, send, receive) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        _ = ctx.saved_tensors
        if ctx.before is not None:
            ctx.before()
        back = [ctx.peers.exchange(grad, ctx.receive, ctx.send) for grad in grads]
        return None, None, None, None, None, *back


def _row_bytes(x: Tensor) -> int:
    return x[:1].numel() * x.element_size() if len(x) else 0
