"""m versions of a parameter in one piece of memory, so that several are one batched product.

Each version stays a parameter of its own; only its numbers lie next to the others'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.routing.plan import Block


@torch.no_grad()
def pack(parameters: Sequence[nn.Parameter]) -> None:
    """Move the data of ``parameters`` (equal shape and type) into one piece of memory."""
    if _packed(parameters) is None:
        for parameter, place in zip(parameters, torch.stack(list(parameters)), strict=True):
            parameter.data = place


def block_of(parameters: Sequence[Tensor]) -> Tensor:
    """All versions ``[m, ...]`` without gradient: a view if they lie packed, else a copy.

    Whoever moves a model (``.to``) packs it again; what moves single parameters (an optimizer that
    flattens them) costs a copy per call.
    """
    packed = _packed(parameters)
    return torch.stack([p.detach() for p in parameters]) if packed is None else packed


class Versions:
    """All m versions of a leaf's parameter, and where they lie.

    Args:
        holders: of each expert, the parameters of the module that has this one, by name.

    ``call``, in what follows, stands for a call of the model during which no parameter moves: where
    they lie is then found out once. Without one nothing is remembered, nor kept in memory.
    """

    def __init__(self, holders: Sequence[Mapping[str, Any]], name: str) -> None:
        self._holders, self._name = holders, name
        self._call: object | None = None
        self._place: tuple[Any, ...] = ()
        self._block: Tensor | None = None
        self._parts: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def parameters(self) -> list[nn.Parameter]:
        name = self._name
        return [holder[name] for holder in self._holders]

    @property
    def first(self) -> nn.Parameter:
        return self._holders[0][self._name]

    def block(self, call: object | None) -> Tensor:
        """Their numbers ``[m, ...]`` as they are now, without gradient."""
        if call is None:
            return block_of(self.parameters)
        if call is self._call and self._block is not None:
            return self._block
        parameters = self.parameters
        first = parameters[0]
        place = first.shape, first.stride(), *(parameter.data_ptr() for parameter in parameters)
        if self._block is None or place != self._place:
            self._place, self._block = place, _packed(parameters)
            self._parts.clear()
        self._call = call
        return block_of(parameters) if self._block is None else self._block

    def parts(self, blocks: Sequence[Block], call: object | None) -> list[Tensor]:
        """Those of each block of rows: ``[...]`` of one expert, ``[count, ...]`` of several."""
        every = self.block(call)
        if every is not self._block:
            return [_part(every, block.key, block.count) for block in blocks]
        known, found = self._parts, []
        for block in blocks:
            key = block.key, block.count
            if key not in known:
                known[key] = _part(every, *key)
            found.append(known[key])
        return found


def _part(every: Tensor, first: int, count: int) -> Tensor:
    return every[first] if count == 1 else every[first : first + count]


def _packed(parameters: Sequence[Tensor]) -> Tensor | None:
    first = parameters[0]
    size = first.numel() * first.element_size()
    place = first.data_ptr()
    for parameter in parameters:
        if parameter.data_ptr() != place or not parameter.is_contiguous():
            return None
        place += size
    return _view(first, len(parameters)) if size and first.data_ptr() else None


def _view(first: Tensor, count: int) -> Tensor | None:
    """``[count, ...]`` from ``first`` on, if its piece of memory is that long."""
    end = first.storage_offset() + count * first.numel()
    if first.untyped_storage().nbytes() < end * first.element_size():
        return None
    shape, strides = first.shape, first.stride()
    return first.detach().as_strided((count, *shape), (first.numel(), *strides))
