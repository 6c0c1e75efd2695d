"""What one measured process does: a scheme and the sizes of model and batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

from moe_tasks.errors import UserError, nearest
from moe_tasks.routing.selection import GumbelStraightThrough

DENSE, ALL_EXPERTS = "dense", "all_experts"
SPREAD, DRAWN = "spread", "drawn"


@dataclass(frozen=True)
class Setting:
    """Attributes:
    scheme: ``dense``, a router gradient (``merge_st``, ``exact``, ...), ``mix``, ``merge`` or
        ``all_experts``.
    num_experts: m.
    rows, tasks: of a batch, sorted by task, equally many of each.
    width, ffn, layers, heads, vocab: of a BART; ``layers`` of each stack; no ``ffn`` is 4 widths.
    source, target: tokens of every row's input and output; nothing is padded.
    routes: ``spread`` uses as many experts as there can be in every layer, the dearest case;
        ``drawn`` are random, as those of an untrained router.
    dropout: of the backbone.
    noise: standard deviation of what each expert's parameters differ by.
    dtype: ``fp32``, or ``bf16`` (the framework's autocast; weights stay float32).
    threads: of torch, on the CPU.
    seed: of weights, routes and tokens.
    """

    scheme: str = DENSE
    num_experts: int = 8
    rows: int = 16
    tasks: int = 8
    width: int = 256
    ffn: int | None = None
    layers: int = 4
    heads: int = 4
    vocab: int = 2000
    source: int = 128
    target: int = 16
    routes: str = SPREAD
    dropout: float = 0.0
    noise: float = 0.05
    device: str = "cpu"
    dtype: str = "fp32"
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows % self.tasks:
            raise UserError(f"{self.rows} rows cannot be shared equally by {self.tasks} tasks")
        if self.routes not in (SPREAD, DRAWN):
            raise UserError(
                f"unknown routes {self.routes!r}; {nearest(self.routes, [SPREAD, DRAWN])}"
            )
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not divisible by {self.heads} heads")

    @property
    def task_names(self) -> list[str]:
        return [f"task-{number}" for number in range(self.tasks)]

    @property
    def precision(self) -> Any:
        """As ``training.precision`` calls it."""
        return self.dtype

    def using(self, scheme: str) -> Setting:
        """The same sizes for another scheme."""
        return replace(self, scheme=scheme)


QUICK: dict[str, Any] = {
    "rows": 4, "tasks": 2, "width": 32, "layers": 1, "vocab": 100, "source": 8, "target": 4,
}  # fmt: skip
_REAL = {"vocab": 50265, "rows": 32, "tasks": 8, "source": 512, "target": 64}
PRESETS: dict[str, dict[str, Any]] = {
    "reference": {},
    "bart-base": {"width": 768, "layers": 6, "heads": 12, **_REAL},
    "bart-large": {"width": 1024, "layers": 12, "heads": 16, **_REAL},
    "minilm": {"width": 384, "layers": 6, "heads": 12, "vocab": 30522, "rows": 32, "source": 64},
}


def router_gradients() -> list[str]:
    """Every router gradient that hard routes can be learned with."""
    return list(get_args(get_type_hints(GumbelStraightThrough)["gradient"]))


def schemes() -> list[str]:
    """All schemes, the base of the ratios first."""
    return [DENSE, *router_gradients(), "merge", "mix", ALL_EXPERTS]


def chosen_schemes(wanted: list[str] | None) -> list[str]:
    """``wanted`` (all if ``None``), with the base of the ratios first.

    Raises:
        UserError: an unknown scheme.
    """
    known = schemes()
    for name in wanted or []:
        if name not in known:
            raise UserError(f"unknown scheme {name!r}; {nearest(name, known)}")
    return [DENSE, *(name for name in wanted or known if name != DENSE)]


def selection_of(scheme: str) -> dict[str, Any]:
    """Selection keys of a routed scheme."""
    if scheme in router_gradients():
        return {"name": "gumbel_st", "gradient": scheme}
    if scheme == ALL_EXPERTS:
        return {"name": "gumbel_st"}
    return {"name": "softmax", "mode": scheme}
