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
