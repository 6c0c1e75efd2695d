"""Random numbers where several processes compute one batch.

What routes draw must be equal in all processes, because the rows of a task may lie in several;
what dropout draws must not be. Routes are drawn first, from torch's generators, which are in the
same state everywhere; then each process goes on with numbers of its own until the batch is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moe_tasks.engines.base import backbone_of
from moe_tasks.training.randomness import random_state, set_random_state

_NAME = "random/processes"


class Streams:
    """The generators of one process.

    Args:
        model: whose backbone draws each process's own numbers, and whose other parts draw first.
        world: with one process, torch's generators are used as they are.
        together: so many neighbours compute their rows together, and draw alike for them.
    """

    def __init__(
        self, model: Any, device: torch.device, rank: int, world: int, together: int = 1
    ) -> None:
        self._device, self._rank, self._world, self._together = device, rank, world, together
        self._model = model
        self._seeds: torch.Generator | None = None
        self._pending: int | None = None
        if world > 1:
            backbone_of(model).register_forward_pre_hook(lambda *_: self._part_from_here())

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around forward and backward of one batch of rows."""
        if self._world == 1:
            yield
            return
        seed = torch.randint(2**62, (), generator=self._shared_seeds())
        self._pending = int(seed) + self._rank
        self._common = random_state(self._device)
        self._parted = self._draws_by_row()
        if self._parted:  # a group's rows are drawn by all of the group
            torch.manual_seed(int(seed) + self._world + self._rank // self._together)
        try:
            yield
        finally:
            self._pending = None
            set_random_state(self._common, self._device)

    def tensors(self) -> dict[str, Tensor]:
        """State to continue from."""
        if self._world == 1:
            return random_state(self._device)
        seeds = self._shared_seeds().get_state()
        return {_NAME: seeds, **random_state(self._device)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from ``tensors``, of any number of processes."""
        set_random_state(tensors, self._device)
        self._seeds = None
        if _NAME in tensors and self._world > 1:
            self._shared_seeds().set_state(tensors[_NAME])

    def _part_from_here(self) -> None:
        """From here on, this process's own numbers."""
        if self._pending is not None:
            if not self._parted:
                self._common = random_state(self._device)
            torch.manual_seed(self._pending)
            self._pending = None

    def _draws_by_row(self) -> bool:
        selection = getattr(self._model, "selection", None)
        return selection is not None and selection.by_row(True)

    def _shared_seeds(self) -> torch.Generator:
        if self._seeds is None:  # not earlier: training seeds torch after the engine is made
            digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
            self._seeds = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        return self._seeds
