"""m versions of a parameter in one piece of memory, so that several are one batched product.

Each version stays a parameter of its own; only its numbers lie next to the others'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Versions:
    """All m versions of a parameter, and where they lie.

    Several parameters (of leaves with the same input, or of one norm) count as one: each expert's
    lie one after the other.

    Args:
        places: of each expert, for each of them, the parameters of its module and its name there.

    ``call``, in what follows, stands for a call of the model during which no parameter moves: where
    they lie is then found out once. Without one nothing is remembered, nor kept in memory.
    """

    def __init__(self, places: Sequence[Sequence[tuple[Mapping[str, Any], str]]]) -> None:
        self._places = places
        self._call: object | None = None
        self._found: tuple[Any, ...] = ()
        self._block: Tensor | None = None

    def __len__(self) -> int:
        return len(self._places)

    def of(self, *experts: int) -> list[nn.Parameter]:
        """Their parameters, one expert's after the other's."""
        places = self._places
        return [holder[name] for expert in experts for holder, name in places[expert]]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of all experts."""
        return self.of(*range(len(self)))

    @property
    def first(self) -> nn.Parameter:
        holder, name = self._places[0][0]
        return holder[name]

    @torch.no_grad()
    def pack(self) -> None:
        """Move their data (equal in type and device) into one piece of memory."""
        if self.packed(None) is None:
            parameters = self.parameters
            flat = torch.cat([parameter.flatten() for parameter in parameters])
            places = flat.split([parameter.numel() for parameter in parameters])
            for parameter, place in zip(parameters, places, strict=True):
                parameter.data = place.view(parameter.shape)

    def block(self, call: object | None) -> Tensor:
        """Their numbers ``[m, ...]`` as they are now, without gradient: a view if they lie packed.

        Whoever moves a model (``.to``) packs it again; what moves single parameters costs a copy
        per call.
        """
        packed = self.packed(call)
        if packed is not None:
            return packed
        by_expert = [[p.detach() for p in own] for own in self._by_expert()]
        return torch.stack([own[0] if len(own) == 1 else torch.cat(own) for own in by_expert])

    def packed(self, call: object | None) -> Tensor | None:
        """The same if they lie packed: the same tensor as before, if they lie as before."""
        if call is None:
            return _packed(self._by_expert())
        if call is not self._call:
            self._call = call
            parameters = self.parameters
            own = parameters[: len(parameters) // len(self)]
            found = ([(p.shape, p.stride()) for p in own], [p.data_ptr() for p in parameters])
            if found != self._found:
                self._found, self._block = found, _packed(self._by_expert())
        return self._block

    def _by_expert(self) -> list[list[nn.Parameter]]:
        return [self.of(expert) for expert in range(len(self))]


def block_of(parameters: Sequence[Tensor]) -> Tensor:
    """Versions ``[m, ...]`` of one leaf's parameter without gradient: a view if they lie packed."""
    packed = _packed([[parameter] for parameter in parameters])
    return torch.stack([p.detach() for p in parameters]) if packed is None else packed


def _packed(by_expert: Sequence[Sequence[Tensor]]) -> Tensor | None:
    """``[m, ...]``, if experts are equally far apart and each one's parameters are in one piece."""
    first, item = by_expert[0][0], by_expert[0][0].element_size()
    start, size = first.data_ptr(), sum(parameter.numel() for parameter in by_expert[0])
    step = by_expert[1][0].data_ptr() - start if len(by_expert) > 1 else size * item
    if not (size and start and size * item <= step and step % item == 0):
        return None
    for number, parameters in enumerate(by_expert):
        place = start + number * step
        for parameter in parameters:
            if parameter.data_ptr() != place or not parameter.is_contiguous():
                return None
            place += parameter.numel() * item
    end = first.storage_offset() * item + (len(by_expert) - 1) * step + size * item
    if first.untyped_storage().nbytes() < end:
        return None
    shape = first.shape
    if len(by_expert[0]) > 1:
        shape = (sum(map(len, by_expert[0])), *shape[1:])
    return first.detach().as_strided(
        (len(by_expert), *shape), (step // item, *first.stride()), first.storage_offset()
    )
