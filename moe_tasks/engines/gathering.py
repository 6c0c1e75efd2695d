"""ZeRO 3: each process holds a part of every weight, and all of a layer's only while it computes.

DeepSpeed divides the weights, puts them together when asked and updates the parts. When that is
asked is decided here, once per call of a whole layer, all of its experts included: banks read
experts directly, and whatever a layer does inside, such as running other experts for the router's
gradient, must not decide how often a process meets the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor, nn

from moe_tasks.engines.base import backbone_of
from moe_tasks.engines.layouts import check_layers
from moe_tasks.engines.ownership import Everything, Layout
from moe_tasks.engines.processes import Processes
from moe_tasks.errors import UserError
from moe_tasks.experts.convert import named_layers
from moe_tasks.experts.routed_layer import LayerCall, hidden_of
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel


class Gathered(Everything):
    """The weights of a model that DeepSpeed has divided.

    What is outside the backbone (router, task vectors) is small and stays whole everywhere, so
    that the main process may look at routes at any time.

    Args:
        engine: DeepSpeed's, whose own hooks are taken away: they gather leaf by leaf, in an order
            that must be the same in all processes and outside of training, too.
    """

    def __init__(self, layout: Layout, model: Any, engine: Any, processes: Processes) -> None:
        super().__init__(layout)
        model.weights_stay = False  # weights are here for the time of their layer only
        backbone = backbone_of(model)
        engine.optimizer.parameter_offload.destroy()
        for hook in engine.optimizer._grad_acc_hooks:
            hook.remove()  # gradients are reduced when a step's last row is done
        inside = set(backbone.parameters())
        self._layers = [_Layer(m, self, processes) for m in named_layers(backbone).values()]
        shared = inside.difference(*(layer.parameters for layer in self._layers))
        self._shared = _Unit(shared, processes)
        self._whole = _Unit((p for p in model.parameters() if p not in inside), processes)
        self._whole.gather()
        self.computes = False

    @property
    def elsewhere(self) -> bool:
        return True

    def release(self) -> None:
        for unit in (*self._layers, self._shared):
            unit.release()

    def make_room(self) -> None:
        self.collect()

    def collect(self) -> bool:
        for unit in (self._whole, self._shared, *self._layers):
            unit.gather()
        return True

    def keep(self) -> None:
        for unit in (self._whole, self._shared, *self._layers):
            unit.store()
        self._whole.gather()

    def updated(self) -> None:
        self._whole.gather()

    @contextmanager
    def computing(self) -> Iterator[None]:
        self._shared.gather()
        for layer in self._layers:
            layer.in_backward = False
        self.computes = True
        try:
            # Torch's keeps a view of the weights, and with it their memory, until backward.
            with patch.object(torch.nn.functional, "linear", zero3_linear_wrap):
                yield
        finally:
            self.computes = False
            self.release()

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        for layer in self._layers:
            layer.gather()
        try:
            yield
        finally:
            for layer in self._layers:
                layer.release()


def check_gathering(model: Any) -> None:
    """Raises ``UserError`` where the model's layers cannot be gathered one by one."""
    if type(model) not in (TaskMoE, DenseModel):
        raise UserError(
            f"engine.zero_stage=3: {type(model).__name__} may also run between training steps, to "
            "choose rows, where its weights are not together; set engine.zero_stage=2"
        )
    check_layers("engine.zero_stage=3", backbone_of(model).config)


class _Unit:
    """Parameters that come and go together."""

    def __init__(self, parameters: Iterable[nn.Parameter], processes: Processes) -> None:
        self.parameters = sorted(set(parameters), key=lambda p: p.ds_id)  # type: ignore[attr-defined]
        self._processes = processes

    @torch.no_grad()
    def gather(self) -> None:
        """Make them whole; a collective, unless they are."""
        away: list[Any] = [p for p in self.parameters if _is_away(p)]
        if away:
            with self._processes.calling("weights"):
                away[0].all_gather_coalesced(away).wait()

    def release(self) -> None:
        """Keep this process's parts only."""
        for parameter in self.parameters:
            parameter.partition()  # type: ignore[attr-defined]

    def store(self) -> None:
        """The same, where their numbers have been changed."""
        for parameter in self.parameters:
            parameter.partition(has_been_updated=True)  # type: ignore[attr-defined]


class _Layer(_Unit):
    """A layer, whole during its forward and again during its backward pass.

    Attributes:
        in_backward: a forward pass then is one that recomputes activations.
    """

    def __init__(self, module: nn.Module, weights: Gathered, processes: Processes) -> None:
        super().__init__(module.parameters(), processes)
        self._weights, self.in_backward = weights, False
        # Not the methods themselves: a copy of the model would copy what they belong to.
        module.register_forward_pre_hook(lambda *a: self._before(*a), with_kwargs=True)
        module.register_forward_hook(lambda *a: self._after(*a))

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._weights.computes or self.in_backward:
            return
        self.gather()
        hidden = LayerCall(module.forward, args, kwargs).hidden
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: self._end_backward())

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._weights.computes or self.in_backward:
            return
        self.release()
        hidden: Tensor = hidden_of(output)
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: self._begin_backward())

    def _begin_backward(self) -> None:
        self.in_backward = True
        self.gather()

    def _end_backward(self) -> None:
        """What needs the weights is done: a layer's nodes come before what they hang from."""
        self.in_backward = False
        self.release()


def _is_away(parameter: Any) -> bool:
    return parameter.ds_status is ZeroParamStatus.NOT_AVAILABLE
