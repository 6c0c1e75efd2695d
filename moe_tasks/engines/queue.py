"""Work of all processes in one queue: each takes the next piece, the main one gets all results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from moe_tasks.engines.watch import Watch
from moe_tasks.training.signals import Interrupted, StopSignals

_POLL_SECONDS = 0.05
Work = Callable[[int], Any]


class Queue:
    """Pieces of work 0 to ``count - 1``; every process makes one and runs it.

    Args:
        store: shared by all, for this queue alone.
    """

    def __init__(self, store: Any, watch: Watch, rank: int, world: int, count: int) -> None:
        self._store, self._watch, self._rank, self._world = store, watch, rank, world
        self._count = count
        self._read, self._missing = 0, set[int]()
        self._working = set(range(1, world))

    def lead(self, work: Work, signals: StopSignals) -> Iterator[tuple[int, Any]]:
        """The main process: results of all as they come, until all processes have ended."""
        try:
            with self._watch.awaiting(*self._working):
                for piece in self._taken(signals):
                    yield piece, work(piece)
                    yield from self._arrived(signals)
                    self._watch.check()
                while self._working and signals.received is None:
                    yield from self._arrived(signals)
                    self._watch.check()
                    time.sleep(_POLL_SECONDS)
                yield from self._arrived(signals)
        finally:
            self._store.set("stop", "")

    def follow(self, work: Work, signals: StopSignals) -> None:
        """Any other process: results go to the main one."""
        try:
            for piece in self._taken(signals):
                self._send({"piece": piece, "result": work(piece)})
        except Interrupted as stop:  # from the training inside a piece
            signals.received = stop.signal
        self._send({"ended": self._rank, "signal": signals.received})

    def _taken(self, signals: StopSignals) -> Iterator[int]:
        while signals.received is None and not self._store.check(["stop"]):
            piece = self._store.add("taken", 1) - 1
            if piece >= self._count:
                return
            yield piece

    def _send(self, message: dict[str, Any]) -> None:
        number = self._store.add("sent", 1)
        self._store.set(f"message/{number}", json.dumps(message))

    def _arrived(self, signals: StopSignals) -> Iterator[tuple[int, Any]]:
        """What has been sent and not been read."""
        sent = self._store.add("sent", 0)
        self._missing |= set(range(self._read + 1, sent + 1))
        self._read = sent
        for number in sorted(self._missing):
            key = f"message/{number}"
            if not self._store.check([key]):
                continue  # it is on its way
            message = json.loads(self._store.get(key))
            self._missing.discard(number)
            self._store.delete_key(key)
            if "piece" in message:
                yield message["piece"], message["result"]
            else:
                self._working.discard(message["ended"])
                signals.received = signals.received or message["signal"]
