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
    first = parameters[0].detach()
    size = first.numel() * first.element_size()
    start = first.data_ptr()
    if not first.is_contiguous() or start == 0:
        return None
    for number, parameter in enumerate(parameters):
        if parameter.data_ptr() != start + number * size or not parameter.is_contiguous():
            return None
    end = first.storage_offset() + len(parameters) * first.numel()
    if first.untyped_storage().nbytes() < end * first.element_size():
        return None
    return first.as_strided((len(parameters), *first.shape), (first.numel(), *first.stride()))
