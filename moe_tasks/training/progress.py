"""The progress display: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from moe_tasks.training.callbacks import Callback, Start

_SHOWN = {
    "loss": "loss {:.3f}",
    "eval_loss": "dev {:.3f}",
    "rows_per_s": "{:.0f} rows/s",
    "temperature": "temperature {:.2f}",
    "route_entropy": "route entropy {:.2f}",
    "skipped": "skipped {:d}",
}


class ProgressDisplay(Callback):
    """Shows loss, rows/s, time left, temperature and route entropy.

    Args:
        stream: standard error when None; a bar if it is a terminal.
        every: seconds between plain lines.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 10.0) -> None:
        self._stream = stream
        self._every = every
        self._bar: Progress | None = None

    def on_start(self, start: Start) -> None:
        self._system, self._steps = start.system, start.steps
        self._first = self._step = start.step
        self._begun = time.monotonic()
        self._figures: dict[str, str] = {}
        stream = self._stream or sys.stderr
        if stream.isatty():
            self._bar = _bar(stream)
            self._bar.start()
            self._task = self._bar.add_task(
                start.system, total=start.steps, completed=start.step, figures=""
            )
        else:
            self._line(start.step)

    def on_step(self, step: int, loss: float | None) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        elif time.monotonic() - self._last >= self._every:
            self._line(step)
        self._step = step

    def on_log(self, record: Mapping[str, Any]) -> None:
        for key, pattern in _SHOWN.items():
            value = record.get(key)
            if value is not None and (key != "skipped" or value):
                self._figures[key] = pattern.format(value)
        if self._bar is not None:
            self._bar.update(self._task, figures=", ".join(self._figures.values()))

    def on_end(self, finished: bool) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._step > self._first:
            self._line(self._step)

    def _line(self, step: int) -> None:
        self._last = time.monotonic()
        text = f"{self._system}: step {step}/{self._steps}"
        text += _left(self._last - self._begun, step - self._first, self._steps - step)
        figures = "".join(f", {figure}" for figure in self._figures.values())
        print(text + figures, file=self._stream or sys.stderr, flush=True)


class GridProgress:
    """Shows how much of a known number of pieces of work is done; a context manager.

    Args:
        enabled: False shows nothing.
        stream, every: as for ``ProgressDisplay``.
    """

    def __init__(
        self, enabled: bool = True, stream: TextIO | None = None, every: float = 10.0
    ) -> None:
        self._enabled, self._stream, self._every = enabled, stream, every
        self._bar: Progress | None = None
        self._first: int | None = None

    def __enter__(self) -> GridProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, done: int, total: int, name: str) -> None:
        """``done`` of ``total`` pieces are done, the last of them is called ``name``."""
        if not self._enabled:
            return
        stream, now = self._stream or sys.stderr, time.monotonic()
        if self._first is None:
            self._first, self._begun, self._last = done, now, float("-inf")
            if stream.isatty():
                self._bar = _bar(stream)
                self._bar.start()
                self._task = self._bar.add_task("adaptation", total=total, figures="")
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, figures=name)
        elif now - self._last >= self._every or done == total:
            self._last = now
            left = _left(now - self._begun, done - self._first, total - done)
            print(f"adaptation: {done}/{total}{left}, {name}", file=stream, flush=True)


def _bar(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(file=stream),
        refresh_per_second=4,
    )


def _left(seconds: float, done: int, left: int) -> str:
    return f", {_duration(seconds / done * left)} left" if done and left else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
