"""Progress of the adaptation grid: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS = 10.0


class GridProgress:
    """Shows how many grid points are done, and the newest one.

    Args:
        enabled: otherwise nothing is shown.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._bar: Progress | None = None
        self._last = 0.0

    def __enter__(self) -> GridProgress:
        if self._enabled and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("adaptation"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int, name: str) -> None:
        """``done`` of ``total`` points; ``name`` says which was last."""
        if self._bar is not None:
            if not self._bar.tasks:
                self._bar.add_task(name, total=total)
            self._bar.update(self._bar.tasks[0].id, completed=done, total=total, description=name)
        elif self._enabled and (time.monotonic() - self._last >= _SECONDS or done == total):
            self._last = time.monotonic()
            print(f"adaptation: {done}/{total} points, {name}", file=sys.stderr, flush=True)
