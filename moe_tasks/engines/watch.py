"""Collective calls that hang or break end with the rank and the call named."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moe_tasks.errors import UserError

EXIT_HUNG = 75
_POLL_SECONDS = 0.5
_BROKEN = ("connection", "timed out", "timeout", "socket", "peer", "nccl")


class Watch:
    """Notes which call each process is in, and ends this one when a call takes too long.

    Args:
        store: shared by all processes.
        timeout: seconds that one call may take.
    """

    def __init__(self, store: Any, rank: int, world: int, timeout: float) -> None:
        self._store, self._rank, self._world, self._timeout = store, rank, world, timeout
        self._calls = 0
        self._now: tuple[str, float] | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def over(self, call: str) -> Iterator[None]:
        """Around one call, which all processes make in the same order.

        Raises:
            UserError: the connection to another process broke.
        """
        self._calls += 1
        self._store.set(f"call/{self._rank}", json.dumps([self._calls, call]))
        self._now = (call, time.monotonic())
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in _BROKEN):
                raise
            raise UserError(
                f"rank {self._rank} lost another process in call {self._calls} ({call}): "
                f"{str(error).splitlines()[0]}"
            ) from error
        finally:
            self._now = None

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            now = self._now
            if now is not None and time.monotonic() - now[1] > self._timeout:
                print(f"error: {self._report(now[0])}", file=sys.stderr, flush=True)
                os._exit(EXIT_HUNG)

    def _report(self, call: str) -> str:
        behind = []
        for rank in range(self._world):
            key = f"call/{rank}"
            calls, last = json.loads(self._store.get(key)) if self._store.check([key]) else (0, "")
            if calls < self._calls:
                behind.append(f"rank {rank} (last in call {calls}, {last or 'none'})")
        return (
            f"rank {self._rank} has waited {self._timeout:g} s in call {self._calls} ({call}) for "
            f"{', '.join(behind) or 'a process that is in it too'}; engine.timeout sets how long"
        )
