"""Which conditional parts an encoder has; the published arrangements are two settings of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from moe_tasks.errors import UserError


@dataclass(frozen=True)
class ConditionalConfig:
    """The parts of arXiv 2009.09139, each of which can be left out.

    Attributes:
        max_length: L, the length that conditional attention is made for.
        attention: every layer's attention scores get a task's bias (eq. 5). ``published`` takes
            inputs of exactly L positions; ``tiled`` takes any length: shorter inputs get the
            leading part of the same bias, which gives what the published form gives for them
            padded to L, and longer ones repeat it.
        attention_blocks: N, blocks of that bias; ``None`` is d / L, which must be a whole number.
        alignment: FiLM after the embeddings (sec. 2.1).
        layer_norm: norms of the top half of the layers are modulated (eq. 6).
        bottleneck: ``top`` changes the last layer's output (base arrangement), ``chain`` adds up
            beside all layers and is the encoder's output (large), ``residual`` adds to each
            layer's output and starts at zero (not in the paper).
        fresh_top_layer: the last layer starts from random weights, as the published base
            arrangement does, instead of the pretrained ones.
        film_init: FiLM starts with small random weights (``published``) or as the ``identity``.
    """

    max_length: int = 128
    attention: Literal["off", "published", "tiled"] = "tiled"
    attention_blocks: int | None = None
    alignment: bool = True
    layer_norm: bool = True
    bottleneck: Literal["off", "top", "chain", "residual"] = "top"
    fresh_top_layer: bool = False
    film_init: Literal["published", "identity"] = "published"

    def __post_init__(self) -> None:
        for key in ("max_length", "attention_blocks"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key!r} is {value}; it must be at least 1")

    @classmethod
    def base(cls, **changes: Any) -> ConditionalConfig:
        """The published base arrangement, for inputs of any length."""
        return dataclasses.replace(cls(bottleneck="top", fresh_top_layer=True), **changes)

    @classmethod
    def large(cls, **changes: Any) -> ConditionalConfig:
        """The published large arrangement, for inputs of any length."""
        return dataclasses.replace(cls(bottleneck="chain"), **changes)

    @classmethod
    def none(cls, **changes: Any) -> ConditionalConfig:
        """No conditional part: the multi-task baseline, and where an ablation starts."""
        bare = cls(attention="off", alignment=False, layer_norm=False, bottleneck="off")
        return dataclasses.replace(bare, **changes)

    @property
    def conditional(self) -> bool:
        """Whether any part depends on the task."""
        return self.alignment or self.in_layers

    @property
    def in_layers(self) -> bool:
        """Whether any part inside or beside the Transformer layers does."""
        return self.layer_norm or self.attention != "off" or self.bottleneck != "off"

    def block_width(self, hidden_size: int) -> int:
        """Columns of a block of the attention bias, L / N rounded up.

        Raises:
            UserError: the number of blocks is left to d / L, and d is no multiple of L.
        """
        if self.attention_blocks is None and hidden_size % self.max_length:
            raise UserError(
                f"conditional attention: the encoder's width {hidden_size} is no multiple of "
                f"'max_length' {self.max_length}; nearest that is: "
                f"{_nearest_divisor(hidden_size, self.max_length)}. Or set 'attention_blocks'"
            )
        blocks = self.attention_blocks or hidden_size // self.max_length
        return -(-self.max_length // blocks)


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    return min(divisors, key=lambda n: (abs(n - wanted), -n))
