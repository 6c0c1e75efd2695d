"""One call of a routed layer: which experts run on which rows, and the exact router gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, PretrainedConfig

from moe_tasks.errors import UserError
from moe_tasks.routing.plan import LayerRoute


class RouteSlot:
    """Where a routed layer says, for the time of one call, what the banks inside it do.

    ``route`` is a :class:`~moe_tasks.routing.plan.LayerRoute`, or the number of the one expert
    that all rows use; ``None`` between calls. ``beside`` has outputs that were computed along with
    another bank's, and for which input.
    """

    def __init__(self) -> None:
        self.route: LayerRoute | int | None = None
        self.beside: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def read(self) -> LayerRoute | int:
        if self.route is None:
            raise RuntimeError("an expert bank was called outside its routed layer")
        return self.route

    @contextmanager
    def holding(self, route: LayerRoute | int) -> Iterator[None]:
        self.route = route
        try:
            yield
        finally:
            self.route = None
            self.beside.clear()


class RemoteRoute:
    """A layer's share of a plan whose rows other processes compute as well."""

    def call(self, layer: nn.Module, call: LayerCall, slot: RouteSlot) -> Any:
        """The output of ``layer`` for this process's rows; all processes take part."""
        raise NotImplementedError


class LayerCall:
    """A layer's own forward with the arguments of one call.

    Its output is the hidden states ``[B, S, D]``, or a tuple that starts with them.
    """

    def __init__(self, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
        self.forward, self.args, self.kwargs = forward, args, kwargs

    def __call__(self) -> Any:
        return self.forward(*self.args, **self.kwargs)

    @property
    def hidden(self) -> Tensor:
        """The hidden states that go in."""
        return self.args[0] if self.args else self.kwargs["hidden_states"]

    @property
    def cached(self) -> bool:
        """Whether a key-value cache takes part, whose rows lie as the batch's do."""
        return any(isinstance(value, Cache) for value in (*self.args, *self.kwargs.values()))

    def of_rows(self, change: Callable[[Tensor], Tensor], num_rows: int) -> LayerCall:
        """The call with ``change`` made to everything that has the batch's ``num_rows`` rows."""
        kwargs = {
            name: rows_changed(value, change, num_rows) for name, value in self.kwargs.items()
        }
        return LayerCall(self.forward, rows_changed(self.args, change, num_rows), kwargs)


def rows_changed(value: Any, change: Callable[[Tensor], Tensor], num_rows: int) -> Any:
    if isinstance(value, tuple):  # rotary position embeddings, or the outputs of a layer
        return tuple(rows_changed(part, change, num_rows) for part in value)
    if hasattr(value, "of_rows"):  # what else a layer is told about each row, by its own class
        return value.of_rows(change)
    # Of one dimension are positions in the sequence, which can be as many as rows.
    batched = isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == num_rows
    return change(value) if batched else value


def call_routed(
    layer: nn.Module, call: LayerCall, route: LayerRoute | RemoteRoute, slot: RouteSlot
) -> Any:
    """The output of ``layer`` under ``route``.

    Rows are grouped by expert once for the whole layer. Where a cache takes part, whose rows must
    stay, the banks inside do it.
    """
    if isinstance(route, RemoteRoute):
        return route.call(layer, call, slot)
    if route.mode == "mix":
        return _mixed(layer, call, route, slot)
    if call.cached:
        return _grouped(call, route, slot)
    num_rows = route.row_task.shape[0]
    output = _grouped(call.of_rows(route.gather, num_rows), route.grouped(), slot)
    return rows_changed(output, route.scatter, num_rows)


def _grouped(call: LayerCall, route: LayerRoute, slot: RouteSlot) -> Any:
    if route.mode == "merge" or route.gradient == "merge_st" or not route.learns:
        with slot.holding(route):
            return call()
    fixed = route.fixed()
    with slot.holding(fixed):
        output = call()
    hidden = ProbedGradient.apply(hidden_of(output), route.weights, _Probe(call, fixed, slot))
    return with_hidden(output, hidden)


def _mixed(layer: nn.Module, call: LayerCall, route: LayerRoute, slot: RouteSlot) -> Any:
    """Route-weighted sum of the experts' outputs, added up as they come (2205.12701, eq. 1)."""
    num_experts = route.weights.shape[-1]
    row_weights = route.weights.index_select(0, route.row_task)  # [B, m]
    total = output = None
    for expert in _used_experts(route):
        with slot.holding(expert), cache_places(layer, num_experts, expert):
            output = call()
        hidden = hidden_of(output)
        weight = row_weights[:, expert].view(-1, *(1,) * (hidden.dim() - 1)).to(hidden.dtype)
        total = weight * hidden if total is None else torch.addcmul(total, weight, hidden)
    assert total is not None
    return with_hidden(output, total)


def _used_experts(route: LayerRoute) -> list[int]:
    if route.learns:
        return list(range(route.weights.shape[-1]))
    return (route.weights > 0).any(0).nonzero().flatten().tolist()


@contextmanager
def cache_places(layer: nn.Module, num_experts: int, expert: int) -> Iterator[None]:
    """Give ``expert`` its own places in a key-value cache, which copies of a layer would share."""
    placed = [m for m in layer.modules() if isinstance(m.__dict__.get("layer_idx"), int)]
    before = [module.layer_idx for module in placed]
    try:
        for module, place in zip(placed, before, strict=True):
            module.layer_idx = place * num_experts + expert  # type: ignore[assignment,operator]
        yield
    finally:
        for module, place in zip(placed, before, strict=True):
            module.layer_idx = place


def cache_for_experts(config: PretrainedConfig, implementation: str | None) -> Cache:
    """An empty cache with room for every expert's keys and values; the usual one fits the layers.

    Raises:
        UserError: a kind of cache is wanted that cannot grow.
    """
    if implementation not in (None, "dynamic"):
        raise UserError(
            "mixed outputs (mode 'mix') generate with a dynamic cache only; leave "
            "cache_implementation out"
        )
    if config.is_encoder_decoder:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    return DynamicCache()


def hidden_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class _Probe:
    """What each task's loss would gain if its output moved towards another expert's.

    Runs each expert on the rows that it was not selected for, forward only: on all
    rows (``exact``), or on the first row of each task, which then stands for the task (``probe``).
    Rows are grouped.
    """

    def __init__(self, call: LayerCall, route: LayerRoute, slot: RouteSlot) -> None:
        self.call, self.route, self.slot = call, route, slot
        device = route.weights.device.type
        self._autocast = torch.is_autocast_enabled(device)
        self._dtype = torch.get_autocast_dtype(device)
        self._device = device

    def __call__(self, grad: Tensor, hidden: Tensor) -> Tensor:
        """``dL/dweights [T, m]``, relative to the selected expert's.

        A constant per task does not reach the router: the softmax's Jacobian takes it out, and
        differences have less rounding than the products themselves.
        """
        if self.route.gradient == "exact":
            return self._gains(self.call, self.route, grad, hidden)
        numbers = self.route.first_row_numbers()
        first: Any = lambda x: x.index_select(0, numbers)  # noqa: E731
        call = self.call.of_rows(first, len(grad))
        gains = self._gains(call, self.route.first_rows(), first(grad), first(hidden))
        return gains * torch.bincount(self.route.row_task, minlength=len(gains))[:, None]

    def _gains(self, call: LayerCall, route: LayerRoute, grad: Tensor, hidden: Tensor) -> Tensor:
        gains = torch.zeros_like(route.weights)
        num_rows, size = len(grad), grad[0].numel()
        grad, hidden = grad.reshape(num_rows, size), hidden.reshape(num_rows, size)
        for expert in range(gains.shape[1]):
            spans = route.without(expert)
            if not spans:
                continue
            chosen = partial(_spanned, spans)
            with self._casting(), self.slot.holding(expert):
                other = hidden_of(call.of_rows(chosen, num_rows)())
            more = other.reshape(-1, size) - chosen(hidden)
            gained = more.mul_(chosen(grad)).sum(-1).to(gains.dtype)
            gains[:, expert].index_add_(0, chosen(route.row_task), gained)
        return gains

    def _casting(self) -> Any:
        # Backward runs outside the autocast region of forward.
        return torch.autocast(self._device, self._dtype) if self._autocast else nullcontext()


def _spanned(spans: Sequence[slice], x: Tensor) -> Tensor:
    """The rows of ``x`` in ``spans``; without a copy if these are one."""
    return x[spans[0]] if len(spans) == 1 else torch.cat([x[span] for span in spans])


class ProbedGradient(torch.autograd.Function):
    """Passes the layer's output on; its backward gives the route what mixing outputs would."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weights: Tensor, probe: _Probe) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(hidden)
        ctx.probe = probe
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        (hidden,) = ctx.saved_tensors
        return grad, ctx.probe(grad, hidden), None
