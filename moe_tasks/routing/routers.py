"""Routers: task vectors to logits over the experts of every layer (2205.12701, section 4.1)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from moe_tasks import registry
from moe_tasks.errors import UserError
from moe_tasks.registry import register

_CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
_HEADS, _FEED_FORWARD = 4, 64  # of the transformer router, as published


class Router(nn.Module):
    """Base of routers: ``[T, task_dim]`` task vectors to ``[L, T, m]`` logits.

    A router sees every layer of the model, encoder first, so that layers without experts leave
    the others' places as they are; their logits are not used.

    Args:
        task_dim: width of a task vector.
        num_layers: L, all layers of the model.
        num_experts: m.
        hidden_dim: width inside the router (64 in 2205.12701).
    """

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        super().__init__()
        self.task_dim = task_dim
        self.num_layers = num_layers
        self.num_experts = num_experts
        self.hidden_dim = hidden_dim

    def forward(self, task_vectors: Tensor) -> Tensor:
        raise NotImplementedError


def build_router(
    name: str,
    task_dim: int,
    num_layers: int,
    num_experts: int,
    hidden_dim: int = 64,
    *,
    init_std: float | None = None,
) -> Router:
    """The router registered under ``name``.

    Args:
        init_std: standard deviation of the initial weights of linear layers and embeddings, biases
            zero (the published code inherits 0.02 from BART); ``None`` leaves torch's own.

    Raises:
        UserError: no such router, or sizes that do not suit it.
    """
    try:
        router = registry.lookup("router", name)(task_dim, num_layers, num_experts, hidden_dim)
    except ValueError as error:
        raise UserError(str(error)) from error
    if init_std is not None:
        for module in router.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return router


def _mlp(task_dim: int, hidden_dim: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(task_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, outputs))


@register("router", "linear")
class LinearRouter(Router):
    """One two-layer GELU MLP for all layers (``linear`` in 2205.12701)."""

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)
        self.mlp = _mlp(task_dim, hidden_dim, num_layers * num_experts)

    def forward(self, task_vectors: Tensor) -> Tensor:
        logits = self.mlp(task_vectors).unflatten(-1, (self.num_layers, self.num_experts))
        return logits.movedim(-2, 0)  # [T, L, m] -> [L, T, m]


@register("router", "linear_layer_specific")
class LayerSpecificLinearRouter(Router):
    """One two-layer GELU MLP per layer, the default of 2205.12701."""

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)
        self.mlps = nn.ModuleList(
            _mlp(task_dim, hidden_dim, num_experts) for _ in range(num_layers)
        )

    def forward(self, task_vectors: Tensor) -> Tensor:
        by_layer = (mlp.parameters() for mlp in self.mlps)
        first, first_bias, last, last_bias = map(torch.stack, zip(*by_layer, strict=True))
        inputs = task_vectors.expand(self.num_layers, -1, -1)
        hidden = gelu(torch.baddbmm(first_bias[:, None], inputs, first.mT))
        return torch.baddbmm(last_bias[:, None], hidden, last.mT)


class SequenceRouter(Router):
    """Reads the layers as a sequence, so that a layer's choice can depend on the others'.

    What a step of the sequence sees is the task vector plus an embedding of the layer's place, or,
    layer-specific, a projection of the task vector of its own. The sequence model is a
    bidirectional recurrent network or one post-norm Transformer layer (4 heads, or the most that
    divide its width; feed-forward width 64; dropout 0.1 in training).

    Args:
        cell: ``rnn``, ``lstm``, ``gru`` or ``transformer``.
        layer_specific: a projection per layer instead of an embedding of its place.
    """

    def __init__(
        self,
        task_dim: int,
        num_layers: int,
        num_experts: int,
        hidden_dim: int = 64,
        *,
        cell: str,
        layer_specific: bool,
    ) -> None:
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)
        width = hidden_dim if layer_specific else task_dim
        self.projections = nn.Linear(task_dim, num_layers * width) if layer_specific else None
        self.places = None if layer_specific else nn.Embedding(num_layers, width)
        self.sequence: nn.Module
        if cell == "transformer":
            heads = next(h for h in range(_HEADS, 0, -1) if width % h == 0)
            self.sequence = nn.TransformerEncoderLayer(width, heads, _FEED_FORWARD)
            self.head = nn.Linear(width, num_experts)
        else:
            self.sequence = _CELLS[cell](width, hidden_dim, bidirectional=True)
            self.head = nn.Linear(2 * hidden_dim, num_experts)

    def forward(self, task_vectors: Tensor) -> Tensor:
        states = self.sequence(self._steps(task_vectors))  # both kinds take [L, T, D]
        return self.head(states[0] if isinstance(states, tuple) else states)

    def _steps(self, task_vectors: Tensor) -> Tensor:
        if self.projections is not None:
            steps = self.projections(task_vectors).unflatten(-1, (self.num_layers, -1))
            return steps.movedim(-2, 0)  # [T, L, D] -> [L, T, D]
        assert self.places is not None
        return task_vectors + self.places.weight[:, None]


for _cell in (*_CELLS, "transformer"):
    for _specific, _suffix in ((False, ""), (True, "_layer_specific")):
        register("router", _cell + _suffix)(
            functools.partial(SequenceRouter, cell=_cell, layer_specific=_specific)
        )


@register("router", "identity")
class IdentityRouter(Router):
    """Task vectors are the logits themselves, ``[T, L * m]``.

    Frozen vectors make fixed routes (random, by category); learned ones free logits per task.
    """

    def __init__(
        self, task_dim: int, num_layers: int, num_experts: int, hidden_dim: int = 64
    ) -> None:
        if task_dim != num_layers * num_experts:
            raise ValueError(
                f"router 'identity' needs task vectors of width {num_layers * num_experts} "
                f"({num_layers} layers x {num_experts} experts), got {task_dim}"
            )
        super().__init__(task_dim, num_layers, num_experts, hidden_dim)

    def forward(self, task_vectors: Tensor) -> Tensor:
        return task_vectors.unflatten(-1, (self.num_layers, self.num_experts)).movedim(-2, 0)
