"""Which process has which experts, and how all of them come together again.

Experts keep their numbers and names everywhere. What a process does not own is a parameter without
numbers, of size 0, while it trains; the main process gets them all for evaluation and saving.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moe_tasks.engines.layouts import check_layers
from moe_tasks.errors import UserError
from moe_tasks.experts.bank import ExpertBank
from moe_tasks.experts.peers import Peers
from moe_tasks.model import TaskMoE


@dataclass(frozen=True)
class Layout:
    """How experts are spread: over ``size`` neighbouring processes each time.

    Attributes:
        owned: by owner, names of the trainable parameters of its experts, in the same order.
    """

    size: int
    rank: int
    world: int
    owned: tuple[tuple[str, ...], ...] = ((),)

    @property
    def member(self) -> int:
        """This process's place among those that together have all experts."""
        return self.rank % self.size

    @property
    def copy(self) -> int:
        """This process's place among those that have the same experts."""
        return self.rank // self.size

    @property
    def group_name(self) -> str:
        """DeepSpeed's name of the groups."""
        return f"ep_size_{self.size}"


class Everything:
    """A model whose parameters are in every process.

    Attributes:
        layout: see :class:`Layout`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @property
    def elsewhere(self) -> bool:
        """Whether a process needs others, who have some of the weights, to compute its rows."""
        return False

    def release(self) -> None:
        """Free the memory of the weights that other processes have."""

    def make_room(self) -> None:
        """Give the weights that other processes have their memory back, with any numbers."""

    def keep(self) -> None:
        """The weights have been given new numbers, after ``make_room``; ends in ``release``."""
        self.release()

    def updated(self) -> None:
        """This process's weights have been updated."""

    def collect(self) -> bool:
        """Give the main process all weights, until ``release``; a collective.

        Returns:
            Whether all processes have them.
        """
        return True

    def computing(self) -> AbstractContextManager[Any]:
        """Around forward and backward passes of this process's rows."""
        return nullcontext()

    def everywhere(self) -> AbstractContextManager[Any]:
        """Around work on all weights at once."""
        return nullcontext()


class Ownership(Everything):
    """The experts of a model, of which this process has a part.

    Raises:
        UserError: the model's experts cannot be spread like this.
    """

    def __init__(self, model: Any, size: int, peers: Peers, rank: int, world: int) -> None:
        self._banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
        self._peers, self._is_main, self._in_first = peers, rank == 0, rank < size
        _check(model, self._banks, size)
        super().__init__(Layout(size, rank, world, _owned(model, self._banks, size)))
        self._shapes = {p: p.shape for bank in self._banks for p in bank.experts.parameters()}
        self._all_here = True

    def claim(self) -> None:
        """Train this process's experts only, and let DeepSpeed know that they differ."""
        for bank in self._banks:
            for parameter in bank.experts.parameters():
                parameter.allreduce, parameter.group_name = False, self.layout.group_name  # type: ignore[attr-defined]
            for parameter in self._elsewhere(bank):
                parameter.requires_grad_(False)

    @property
    def elsewhere(self) -> bool:
        return True

    def release(self) -> None:
        if not self._all_here:
            return
        self._all_here = False
        for bank in self._banks:
            bank.here = self._own(bank)
            for parameter in self._elsewhere(bank):
                parameter.data = parameter.data.new_empty(0)

    def make_room(self) -> None:
        for bank in self._banks:
            bank.here = range(len(bank.experts))
            for parameter in self._elsewhere(bank):
                parameter.data = parameter.data.new_empty(self._shapes[parameter])
        self._all_here = True

    def collect(self) -> bool:
        if self._in_first and not self._all_here:
            self._gather()
        return False

    @torch.no_grad()
    def _gather(self) -> None:
        if self._is_main:
            self.make_room()
        self._all_here = True
        for bank in self._banks:
            own = [p for expert in self._own(bank) for p in bank.experts[expert].parameters()]
            flat = torch.cat([p.detach().reshape(-1) for p in own])
            parts = [torch.empty_like(flat) for _ in range(self._peers.size)]
            dist.gather(flat, parts if self._is_main else None, dst=0, group=self._peers.group)
            if self._is_main:
                for owner, part in enumerate(parts):
                    self._fill(bank, owner, part)

    def _fill(self, bank: ExpertBank, owner: int, numbers: Tensor) -> None:
        if owner == self._peers.rank:
            return
        each = len(self._own(bank))
        chosen = bank.experts[owner * each : (owner + 1) * each]
        parameters = list(chosen.parameters())  # type: ignore[union-attr]
        sizes = [p.numel() for p in parameters]
        for parameter, part in zip(parameters, numbers.split(sizes), strict=True):
            parameter.copy_(part.view_as(parameter))

    def _elsewhere(self, bank: ExpertBank) -> Iterator[nn.Parameter]:
        for number, expert in enumerate(bank.experts):
            if number not in self._own(bank):
                yield from expert.parameters()

    def _own(self, bank: ExpertBank) -> range:
        return self._peers.own(len(bank.experts))


def _check(model: Any, banks: Sequence[ExpertBank], size: int) -> None:
    if type(model) is not TaskMoE:
        raise UserError(
            f"engine.expert_parallel={size}: {type(model).__name__} cannot be spread over "
            "processes, only encoder-decoder models with experts and no conditional parts; set "
            "engine.expert_parallel=1"
        )
    for number in sorted({len(bank.experts) for bank in banks}):
        if number % size:
            raise UserError(f"engine.expert_parallel={size} does not divide {number} experts")
    check_layers(f"engine.expert_parallel={size}", model.backbone.config)


def _owned(model: Any, banks: Sequence[ExpertBank], size: int) -> tuple[tuple[str, ...], ...]:
    """By owner, names of trainable parameters of experts, in the order of the model."""
    owners: dict[nn.Parameter, tuple[int, str]] = {}
    for number, bank in enumerate(banks):
        each = len(bank.experts) // size
        for place, expert in enumerate(bank.experts):
            for name, parameter in expert.named_parameters():
                owners[parameter] = (place // each, f"{number}.{place % each}.{name}")
    found: list[list[tuple[str, str]]] = [[] for _ in range(size)]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter in owners:
            owner, alike = owners[parameter]
            found[owner].append((name, alike))
    if len({tuple(alike for _, alike in own) for own in found}) > 1:
        raise UserError(
            "'training.freeze' treats the experts of a layer differently, and they are spread over "
            f"{size} processes: freeze all of a layer's experts or none, or set "
            "engine.expert_parallel=1"
        )
    return tuple(tuple(name for name, _ in own) for own in found)
