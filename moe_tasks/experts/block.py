"""m versions of a parameter in one piece of memory, so that several are one batched product.

Each version stays a parameter of its own; only its numbers lie next to the others'.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Blocks of a bank's parameters by name, remembered as long as nothing moves.

    Looking where m parameters lie is cheap, making a view of them is not, and both are done for
    every leaf and step. A copy of a bank starts without memories.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[int], Tensor]] = {}

    def __reduce__(self) -> tuple[type[Blocks], tuple[()]]:
        return Blocks, ()

    def of(self, name: str, parameters: Sequence[Tensor]) -> Tensor:
        """:func:`block_of` the parameters that are called ``name``."""
        places = [parameter.data_ptr() for parameter in parameters]
        known = self._known.get(name)
        if known is not None and known[0] == places:  # its memory is held, so cannot be another's
            return known[1]
        packed = _packed(parameters)
        if packed is None:
            self._known.pop(name, None)
            return block_of(parameters)
        self._known[name] = (places, packed)
        return packed


def _packed(parameters: Sequence[Tensor]) -> Tensor | None:
    first = parameters[0]
    size = first.numel() * first.element_size()
    start = place = first.data_ptr()
    for parameter in parameters:
        if parameter.data_ptr() != place or not parameter.is_contiguous():
            return None
        place += size
    end = first.storage_offset() + len(parameters) * first.numel()
    if start == 0 or first.untyped_storage().nbytes() < end * first.element_size():
        return None
    shape, strides = first.shape, first.stride()
    return first.detach().as_strided((len(parameters), *shape), (first.numel(), *strides))
