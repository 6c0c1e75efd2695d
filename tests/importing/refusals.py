"""What importing published checkpoints must refuse, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_tasks.errors import UserError


def check(import_: Callable[[Path, Path], Any], source: Path, message: str) -> None:
    """``source`` is refused with one line that says ``message``, and nothing is written."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(UserError, match=message) as raised:
        import_(source, source.parent / "ours")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert sorted(source.parent.iterdir()) == before


class Malicious:
    """Makes ``marker`` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)
