"""AdamW for models with thousands of parameters, most of which are small parts of few blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _States:
    """States of the parameters ``ids``; ``counts`` are their ``steps``, neighbours as one."""

    ids: list[int]
    counts: list[Tensor]
    steps: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW, without what torch does anew for every parameter in every step.

    Same arithmetic and state. All parameters have one device and type, so there is nothing to sort
    them by, and their counts of steps lie next to each other, so that one addition raises them.

    Attributes:
        grad_scale: what gradients are divided by while they are read, for one step; or ``None``.
    """

    grad_scale: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, fused=True)
        self._known: dict[int, _States] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient; others keep decay and averages, too."""
        for number, group in enumerate(self.param_groups):
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters, self._states(number, parameters))
        self.grad_scale = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._known.clear()

    def restore(self, states: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Continue with these states, and none for other parameters."""
        self.state.clear()
        self._known.clear()
        for parameter, state in states.items():
            self.state[parameter] = dict(state)
        if states:
            counts = torch.stack([state["step"] for state in states.values()])
            for parameter, count in zip(states, counts.unbind(), strict=True):
                self.state[parameter]["step"] = count

    def _update(
        self, group: Mapping[str, Any], parameters: list[nn.Parameter], states: _States
    ) -> None:
        torch._foreach_add_(states.counts, 1)  # type: ignore[attr-defined]
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(  # type: ignore[attr-defined]
            parameters,  # type: ignore[arg-type]
            [parameter.grad for parameter in parameters],  # type: ignore[misc]  # they have one
            states.exp_avgs,
            states.exp_avg_sqs,
            [],
            states.steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=self.grad_scale,
        )

    def _states(self, number: int, parameters: list[nn.Parameter]) -> _States:
        """Of a group's parameters; they are mostly those of the step before."""
        ids = [id(parameter) for parameter in parameters]
        if number not in self._known or self._known[number].ids != ids:
            self._begin([parameter for parameter in parameters if parameter not in self.state])
            found = [self.state[parameter] for parameter in parameters]
            fields = ([s[key] for s in found] for key in ("step", "exp_avg", "exp_avg_sq"))
            steps, exp_avgs, exp_avg_sqs = fields
            self._known[number] = _States(ids, joined(steps), steps, exp_avgs, exp_avg_sqs)
        return self._known[number]

    def _begin(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the state of parameters that are updated for the first time."""
        if not parameters:
            return
        counts = torch.zeros(len(parameters), device=parameters[0].device)
        for parameter, count in zip(parameters, counts.unbind(), strict=True):
            self.state[parameter] = {
                "step": count,
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def joined(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The numbers of contiguous ``tensors``, flat; neighbours in one piece of memory as one view.

    Order and cuts follow from the tensors alone, not from where memory happened to be free, so that
    sums over them are the same in every process.
    """
    starts = [tensor.data_ptr() for tensor in tensors]
    pieces: list[list[int]] = []  # numbers of tensors that lie one after the other
    stop = limit = -1
    for number in sorted(range(len(tensors)), key=starts.__getitem__):
        start, size = starts[number], tensors[number].nbytes
        if start == stop and start + size <= limit:
            pieces[-1].append(number)
        else:
            storage = tensors[number].untyped_storage()
            limit = storage.data_ptr() + storage.nbytes()
            pieces.append([number])
        stop = start + size
    flat = []
    for piece in sorted(pieces, key=min):
        first, last = tensors[piece[0]], tensors[piece[-1]]
        size = starts[piece[-1]] + last.nbytes - starts[piece[0]]
        flat.append(first.as_strided((size // first.element_size(),), (1,)))
    return flat
