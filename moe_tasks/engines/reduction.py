"""How gradients are added up and weights updated: ZeRO 0 alike in all processes, 1 to 3 divided.

All do what one process does with the sum of the gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from moe_tasks.engines.pieces import FlatAdamW, Share, Span
from moe_tasks.engines.processes import Processes
from moe_tasks.training.optimizer import restore_states, state_tensors


class Replicated:
    """ZeRO 0: every process has all gradients and makes the same update.

    Args:
        engine: DeepSpeed's.
        parameters: trainable ones, by name.
    """

    def __init__(
        self, engine: Any, optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self._engine, self._optimizer, self._parameters = engine, optimizer, parameters

    def unreduced(self) -> AbstractContextManager[None]:
        """Backward inside leaves gradients in this process."""
        return self._engine.no_sync()

    def reduce(self, used: Collection[str]) -> None:
        """Average the gradients over the processes, all of which have those of ``used``."""
        self._engine.allreduce_gradients()
        for name, parameter in self._parameters.items():
            if name not in used:
                parameter.grad = None  # DeepSpeed has filled it with zeros

    def gradients(self) -> list[Tensor]:
        """All that this process will update with."""
        return [p.grad for p in self._parameters.values() if p.grad is not None]

    def norm(self) -> Tensor:
        """Of all gradients."""
        return _squares(self.gradients(), next(iter(self._parameters.values())).device).sqrt()

    def update(self, used: Collection[str], rates: Mapping[str, float]) -> None:
        """One step of the groups that have a rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rates.get(group["name"], 0.0)
            if group["name"] not in rates:
                for parameter in group["params"]:
                    parameter.grad = None
        self._engine.step()

    def zero_gradients(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def states(self) -> dict[str, Tensor]:
        """Optimizer state by parameter name."""
        return state_tensors(self._optimizer, {p: n for n, p in self._parameters.items()})

    def load(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue with the states of these parameters."""
        restore_states(
            self._optimizer, {self._parameters[name]: dict(state) for name, state in states.items()}
        )

    def take_weights(self) -> None:
        """The model's weights have been loaded anew."""


class Divided:
    """ZeRO 1 and 2: every process updates its stretch of the parameters, laid end to end.

    Args:
        engine: DeepSpeed's.
        parameters: trainable ones, by name.
    """

    def __init__(
        self,
        engine: Any,
        optimizer: FlatAdamW,
        parameters: Mapping[str, nn.Parameter],
        processes: Processes,
    ) -> None:
        self._engine, self._optimizer, self._processes = engine, optimizer, processes
        self._zero = engine.optimizer
        self._zero._hp_optimizer_states_linked = True  # for its own checkpoints; we have ours
        names = {parameter: name for name, parameter in parameters.items()}
        optimizer.cut({s.name: s for s in self._spans(names)}, self._stretches())

    def _spans(self, names: Mapping[nn.Parameter, str]) -> Iterator[Span]:
        offsets = self._zero.round_robin_bit16_offsets
        for group, flat in enumerate(self._zero.round_robin_bit16_groups):
            for parameter, start in zip(flat, offsets[group], strict=True):
                yield Span(group, names[parameter], start, parameter.shape)

    def _stretches(self) -> list[Tensor]:
        return self._zero.single_partition_of_fp32_groups

    def unreduced(self) -> AbstractContextManager[None]:
        """Backward inside leaves gradients in this process; they are reduced at the end."""
        return self._engine.coalesce_grad_reduction()

    def reduce(self, used: Collection[str]) -> None:
        """Done already."""

    def gradients(self) -> list[Tensor]:
        """All that this process will update with."""
        averaged = self._zero.averaged_gradients
        return [part for group in averaged.values() if group is not None for part in group]

    def norm(self) -> Tensor:
        """Of all gradients; a collective."""
        return self._processes.sum(_squares(self.gradients(), self._zero.device)).sqrt()

    def update(self, used: Collection[str], rates: Mapping[str, float]) -> None:
        """One step of the groups that have a rate; a collective."""
        self._optimizer.prepare(used, rates)
        self._engine.step()

    def zero_gradients(self) -> None:
        """Forget all gradients."""
        self._zero.zero_grad()
        for group in self._zero.averaged_gradients:
            self._zero.averaged_gradients[group] = None

    def states(self) -> dict[str, Tensor]:
        """Optimizer state by parameter name, whole in process 0; a collective."""
        return self._optimizer.states()

    def load(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue with this process's part of the states."""
        self._optimizer.load(states)

    def take_weights(self) -> None:
        """The model's weights have been loaded anew."""
        self._zero.refresh_fp32_params()


class Partitioned(Divided):
    """ZeRO 3: every process updates its part of each parameter."""

    def unreduced(self) -> AbstractContextManager[None]:
        self._zero.grad_partitions_flat_buffer.zero_()  # else unused parameters keep old gradients
        return super().unreduced()

    def _spans(self, names: Mapping[nn.Parameter, str]) -> Iterator[Span]:
        for group, parameters in enumerate(self._zero.fp16_groups):
            sizes = [parameter.ds_tensor.numel() for parameter in parameters]
            starts = accumulate(sizes, initial=0)
            for parameter, start, each in zip(parameters, starts, sizes, strict=False):
                yield Share(group, names[parameter], start, parameter.ds_shape, each)

    def _stretches(self) -> list[Tensor]:
        return self._zero.fp32_partitioned_groups_flat


def zero_gradient(parameter: nn.Parameter, shape: torch.Size) -> None:
    """Give a parameter of ``shape``, whose numbers may be elsewhere, a gradient of zeros."""
    held = parameter.data
    if held.shape != shape:
        parameter.data = held.new_zeros(()).expand(shape)  # torch compares shapes
    parameter.grad = torch.zeros(shape, dtype=held.dtype, device=held.device)
    parameter.data = held


def _squares(gradients: list[Tensor], device: torch.device | str) -> Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    flat = [gradient.reshape(-1) for gradient in gradients]
    return torch.stack([torch.dot(gradient, gradient) for gradient in flat]).sum()
