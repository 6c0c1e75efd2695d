"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written, then the run ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A terminal or a launcher may deliver one stop twice; a second one by hand comes later.
_SECOND_STOP_SECONDS = 1.0


class Interrupted(Exception):
    """A signal ended training after a checkpoint was written.

    Attributes:
        signal: its number.
        exit_code: what the process should exit with: 130 for Ctrl-C, 143 for SIGTERM.
        system: name of the system in training.
        step, steps: updates done, and wanted in all.
        checkpoint: where training continues from; None when it keeps no files.

    Pickles, so that worker processes can raise it.
    """

    def __init__(
        self, number: int, system: str, step: int, steps: int, checkpoint: Path | None
    ) -> None:
        self.signal = number
        self.exit_code = 128 + number
        self.system, self.step, self.steps, self.checkpoint = system, step, steps, checkpoint
        kept = f"; checkpoint {checkpoint}" if checkpoint else ""
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step} of {steps} of {system}{kept}")

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.signal, self.system, self.step, self.steps, self.checkpoint)
        return Interrupted, arguments


class _Stop(BaseException):
    """Leaves interruptible work; a BaseException, so that no library swallows it."""


class StopSignals:
    """Notes SIGINT and SIGTERM while its ``with`` block runs (main thread only).

    A second Ctrl-C, a second or more after the first signal, raises ``KeyboardInterrupt`` at
    once; checkpoints stay whole then too.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._at = 0.0
        self._interruptible = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def attempt(self, work: Callable[[], _Result]) -> _Result | None:
        """The result of ``work``, or None when a signal came first or ended it half-way.

        For work that changes nothing (evaluation), so that a signal need not wait for its end.
        """
        try:
            self._interruptible = True
            if self.received is None:
                result = work()
                self._interruptible = False
                return result
        except _Stop:
            pass
        finally:
            self._interruptible = False
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self.received is not None and now - self._at >= _SECOND_STOP_SECONDS
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self._at = number, now
        if self._interruptible:
            self._interruptible = False
            raise _Stop
