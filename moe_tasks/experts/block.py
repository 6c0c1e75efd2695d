"""m versions of a parameter in one piece of memory, so that several are one batched product.

Each version stays a parameter of its own; only its numbers lie next to the others'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


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


class Blocks:
    """Where a bank's parameters lie packed, by name: found out once, not in every call.

    A copy of a bank starts without memories.
    """

    def __init__(self) -> None:
        self._places: dict[str, list[int]] = {}

    def __reduce__(self) -> tuple[type[Blocks], tuple[()]]:
        return Blocks, ()

    def of(self, name: str, parameters: Sequence[Tensor]) -> Tensor:
        """:func:`block_of` the parameters that are called ``name``."""
        places = [parameter.data_ptr() for parameter in parameters]
        if places == self._places.get(name):
            block = _view(parameters[0], len(places))
            if block is not None:
                return block
        block = _packed(parameters)
        self._places[name] = [] if block is None else places
        return block_of(parameters) if block is None else block


class Versions:
    """All m versions of a parameter.

    Args:
        stack: gives them by their name.
        memory: of a call during which they do not move, blocks that it has looked up.
    """

    def __init__(
        self,
        name: str,
        stack: Callable[[str], Sequence[Tensor]],
        blocks: Blocks,
        memory: dict[Any, Tensor] | None,
    ) -> None:
        self._name, self._stack, self._blocks, self._memory = name, stack, blocks, memory

    @cached_property
    def parameters(self) -> Sequence[Tensor]:
        return self._stack(self._name)

    @property
    def block(self) -> Tensor:
        """Their numbers ``[m, ...]`` as they are now, without gradient."""
        key, memory = (self._blocks, self._name), self._memory
        if memory is not None and key in memory:
            return memory[key]
        block = self._blocks.of(self._name, self.parameters)
        if memory is not None and block.data_ptr() == self.parameters[0].data_ptr():
            memory[key] = block  # a copy would have to be kept for every layer
        return block


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
