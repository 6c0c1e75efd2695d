"""The conditional modules of CA-MTL (arXiv 2009.09139).

Shapes: ``B`` rows, ``S`` positions, ``D`` width, ``T`` tasks, ``L`` the attention's length. A
module computes what a task embedding asks for once per task and then takes each row's share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tasks.errors import UserError

# What the published code adds at padding: every floating type can hold it, also after a bias.
_MASKED = -10000.0


@dataclass(frozen=True)
class Condition:
    """What one call is conditioned on.

    Attributes:
        task_ids: int64 [B].
        embeddings: [T, D] task embeddings, which the alignment reads.
        projected: [T, D] these after a linear layer, which the Transformer layers read.
    """

    task_ids: Tensor
    embeddings: Tensor
    projected: Tensor

    def rows(self, values: Tensor) -> Tensor:
        """``values`` [T, ...] of each row's task, [B, ...]."""
        return values[self.task_ids]

    def of_rows(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The condition of a batch whose rows ``change`` chooses or puts into another order."""
        return replace(self, task_ids=change(self.task_ids))


class ConditionSlot:
    """Where a conditional layer keeps the condition, for the time of one call, for its parts."""

    def __init__(self) -> None:
        self._condition: Condition | None = None

    def read(self) -> Condition:
        if self._condition is None:
            raise RuntimeError("a conditional module needs a condition: call the encoder via CAMTL")
        return self._condition

    @contextmanager
    def holding(self, condition: Condition | None) -> Iterator[None]:
        self._condition = condition
        try:
            yield
        finally:
            self._condition = None


class OneTask(nn.Module):
    """The condition of a model that serves one task, for batches of any size.

    Args:
        embedding: ``[D]``, copied; it goes on learning, as a copy of ``projection`` does.
    """

    without_experts = True

    def __init__(self, embedding: Tensor, projection: nn.Linear | None) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding.detach().clone()[None])
        self.projection = copy.deepcopy(projection)

    def forward(self) -> Condition:
        """Of one row, which broadcasts."""
        z = self.embedding
        projected = z if self.projection is None else self.projection(z)
        return Condition(torch.zeros(1, dtype=torch.int64, device=z.device), z, projected)


class FiLM(nn.Module):
    """(1 + gamma(z)) x + beta(z), both from one linear layer of z (Perez et al. 2018).

    Args:
        task_dim: width of z.
        width: of x.
        std: of the initial weights; 0 makes it the identity.
    """

    without_experts = True

    def __init__(self, task_dim: int, width: int, std: float) -> None:
        super().__init__()
        self.linear = new_linear(task_dim, 2 * width, std)

    def scale_and_shift(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """1 + gamma and beta ``[T, width]`` of task embeddings ``[T, task_dim]``."""
        gamma, beta = self.linear(z).chunk(2, dim=-1)
        return 1 + gamma, beta

    def forward(self, x: Tensor, z: Tensor, condition: Condition) -> Tensor:
        """``x [B, S, width]``, each row modulated by its task's row of ``z [T, task_dim]``."""
        scale, shift = (condition.rows(part)[:, None] for part in self.scale_and_shift(z))
        return torch.addcmul(shift, x, scale)


def new_linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """A linear layer with normal weights and bias 0, BERT's initialisation."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=std) if std > 0 else nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class TaskAttentionBias(nn.Module):
    """M(z) of conditional attention: a block diagonal [L, L] matrix per task (eq. 5).

    A learned matrix ``[L, w]`` (zero at first) is modulated by FiLM along its columns; its rows
    are cut into blocks of w, which become the diagonal. It is the same for all heads.
    """

    without_experts = True

    def __init__(self, task_dim: int, length: int, block_width: int, std: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(length, block_width))
        self.film = FiLM(task_dim, block_width, std)

    def forward(self, z: Tensor, positions: int) -> Tensor:
        """``[T, S, S]`` for ``S = positions`` and task embeddings ``z [T, task_dim]``."""
        scale, shift = (part[:, None] for part in self.film.scale_and_shift(z))
        length, width = self.matrix.shape
        needed = min(length, positions)
        blocks = torch.addcmul(shift, self.matrix[:needed], scale)  # [T, needed, w]
        blocks = functional.pad(blocks, (0, 0, 0, -needed % width)).unflatten(1, (-1, width))
        bias = _block_diagonal(blocks)[:, :needed, :needed]
        if positions > length:
            tiles = -(-positions // length)
            bias = _block_diagonal(bias[:, None].expand(-1, tiles, -1, -1))
        return bias[:, :positions, :positions]


def _block_diagonal(blocks: Tensor) -> Tensor:
    """``[T, n, a, a]`` to ``[T, n a, n a]``."""
    tasks, count, size, _ = blocks.shape
    whole = blocks.new_zeros(tasks, count, size, count, size)
    whole.diagonal(dim1=1, dim2=3).copy_(blocks.permute(0, 2, 3, 1))
    return whole.reshape(tasks, count * size, count * size)


def add_to_mask(mask: Tensor | None, bias: Tensor) -> Tensor:
    """An attention mask of scores ``[B, 1, S, S]`` from the library's and ``bias [B, S, S]``.

    Args:
        mask: ``None``, boolean (true: attend) or of scores, ``[B, 1, 1 or S, S]``.
    """
    bias = bias[:, None]
    if mask is None:
        return bias
    return bias.masked_fill(~mask, _MASKED) if mask.dtype == torch.bool else bias + mask


def check_length(length: int, positions: int) -> None:
    """``UserError`` unless inputs have the length that published conditional attention needs."""
    if positions != length:
        raise UserError(
            f"attention: published needs inputs padded to 'max_length' {length}, got {positions} "
            "positions; attention: tiled takes any length"
        )


class ConditionalLayerNorm(nn.Module):
    """A norm whose weight is FiLM-modulated and whose bias, if it has one, is shared (eq. 6).

    Args:
        norm: whose weights it starts from: a layer norm, or a root mean square norm (T5).
        slot: holds the condition of the call.
    """

    without_experts = True

    def __init__(self, norm: nn.Module, task_dim: int, slot: ConditionSlot, std: float) -> None:
        super().__init__()
        like: Any = norm
        self.weight, self.bias = like.weight, getattr(like, "bias", None)
        self.eps: float = getattr(like, "eps", None) or like.variance_epsilon
        self.film = FiLM(task_dim, self.weight.numel(), std)
        self._slot = slot

    def forward(self, x: Tensor) -> Tensor:
        """``[B, S, D]`` to the same shape."""
        condition = self._slot.read()
        scale, shift = self.film.scale_and_shift(condition.projected)
        weights = condition.rows(torch.addcmul(shift, self.weight, scale))[:, None]  # [B, 1, D]
        if self.bias is None:
            normed = functional.rms_norm(x, self.weight.shape, eps=self.eps)
            return normed * weights.to(normed)
        normed = functional.layer_norm(x, self.weight.shape, eps=self.eps)
        return torch.addcmul(self.bias.to(normed), normed, weights.to(normed))


class ConditionalBottleneck(nn.Module):
    """D -> D/3 -> D, linear, of FiLM-modulated states (sec. 2.1, "conditional adapter")."""

    without_experts = True

    def __init__(
        self, hidden_size: int, film_std: float, std: float, *, zero: bool = False
    ) -> None:
        super().__init__()
        self.task_projection = new_linear(hidden_size, hidden_size, std)
        self.film = FiLM(hidden_size, hidden_size, film_std)
        self.down = new_linear(hidden_size, hidden_size // 3, std)
        self.up = new_linear(hidden_size // 3, hidden_size, 0.0 if zero else std)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """``[B, S, D]`` to the same shape."""
        z = self.task_projection(condition.projected)
        return self.up(self.down(self.film(x, z, condition)))


class TopAdapter(nn.Module):
    """The base arrangement's end of the last layer: norm(bottleneck(output) + attention output)."""

    without_experts = True

    def __init__(
        self, bottleneck: ConditionalBottleneck, norm: ConditionalLayerNorm, slot: ConditionSlot
    ) -> None:
        super().__init__()
        self.bottleneck, self.norm = bottleneck, norm
        self._slot = slot

    def forward(self, attention_output: Tensor, layer_output: Tensor) -> Tensor:
        """Both ``[B, S, D]``."""
        changed = self.bottleneck(layer_output, self._slot.read())
        return self.norm(changed + attention_output)
