"""Keys of a zero-shot evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

RouteSource = Literal["auto", "text", "sentence", "inputs", "nearest", "average"]


@dataclass(frozen=True)
class ZeroshotConfig:
    """Attributes:
    batch_size: answer options computed together.
    limit: test rows per task, the first ones; ``None`` is all.
    selection: how logits become routes, if not as in training (keys of group ``selection``).
    routes: where unseen tasks get their routes from, each compared in a run's own evaluation.
    """

    batch_size: int = 64
    limit: int | None = None
    selection: dict[str, Any] | None = None
    routes: tuple[RouteSource, ...] = ("auto",)

    def __post_init__(self) -> None:
        for key in ("batch_size", "limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"'{key}' is {value}; it must be at least 1")
        if not self.routes:
            raise ValueError("'routes' is empty; expected at least one, such as auto")
