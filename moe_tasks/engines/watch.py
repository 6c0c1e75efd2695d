"""Collective calls that hang or break end with the rank and the call named."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from moe_tasks.engines.board import Board
from moe_tasks.errors import UserError

EXIT_LOST, EXIT_HUNG = 2, 75
_BEAT_SECONDS = 0.5
_SILENT_SECONDS = 20.0  # at most, without a sign of life, after which a process counts as dead
LOST_SECONDS = 3.0  # the same, where a broken connection says so as well
_BROKEN = ("connection", "timed out", "timeout", "socket", "peer", "nccl", "broken pipe")


class Watch:
    """Notes which call each process is in, and ends this one when a call takes too long.

    Calls may be made within calls: the innermost one counts, and what it took is its own.

    Args:
        store: shared by all processes.
        timeout: seconds that one call may take.
    """

    def __init__(self, store: Any, rank: int, world: int, timeout: float) -> None:
        self.board = Board(store.clone() if world > 1 else store, rank, world)
        self._rank, self._world, self._timeout = rank, world, timeout
        self._calls = 0
        self._open: list[str] = []
        self._since = time.monotonic()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._awaited: tuple[int, ...] = ()
        self._dead, self._speaks, self._heard = "", False, False
        self._ended = threading.Event()
        self.board.beat(0, "")
        # Main watches all and all watch it, so that what is read grows with their number only.
        self._watched = [r for r in range(world) if r != rank] if rank == 0 else [0]
        self._every = max(1, round(world / 64 / _BEAT_SECONDS))
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if world > 1:
            self._thread.start()
            # Python ends threads where they are, and one inside the store takes the process along.
            atexit.register(self.end)

    @contextmanager
    def over(self, call: str) -> Iterator[None]:
        """Around one call, which all processes make in the same order.

        Raises:
            UserError: the connection to another process broke.
            SystemExit: it did, and another process has said so.
        """
        self._book()
        self._calls += 1
        number = self._calls
        self._open.append(call)
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in _BROKEN):
                raise
            self._raise_broken(f"call {number} ({self._name()})", error)
        finally:
            self._book()
            self._open.pop()

    @contextmanager
    def awaiting(self, *ranks: int) -> Iterator[None]:
        """Around a wait for ``ranks``, which may take as long as they live; see ``check``."""
        self._awaited = ranks
        try:
            yield
        finally:
            self._awaited = ()

    def check(self) -> None:
        """Raises ``UserError`` when one of the awaited processes has died."""
        if self._dead:
            raise self.error(self._dead)

    @contextmanager
    def store_held(self) -> Iterator[None]:
        """Around use of the store; ``UserError`` if it goes, with the process that had it."""
        try:
            yield
        except dist.DistError as error:
            reason = str(error).splitlines()[0]
            raise self.error(f"rank {self._rank} lost rank 0 or the launcher: {reason}") from error

    def error(self, message: str) -> BaseException:
        """What to raise: only the first process to find something wrong says so."""
        return UserError(message) if self.may_speak() else SystemExit(EXIT_LOST)

    def may_speak(self) -> bool:
        """Whether this process is the first to report an error; if not, the first one now has."""
        if not self._speaks:
            try:
                self._speaks = self.board.is_first()
            except dist.DistError:  # the store went with the process that had it
                self._speaks = not self._heard
            if not self._speaks:  # a launcher that sees one end ends the others
                time.sleep(2 * _BEAT_SECONDS)
        return self._speaks

    def seconds(self) -> dict[str, float]:
        """By call, what was spent in it since this was last asked."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(LOST_SECONDS + 2 * _BEAT_SECONDS)

    def _book(self) -> None:
        """Charge the time until now to the innermost open call."""
        now = time.monotonic()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now

    def _name(self) -> str:
        return ": ".join(self._open)

    def _raise_broken(self, where: str, error: RuntimeError) -> None:
        try:
            lost = self.board.failed(LOST_SECONDS) or "another process"
        except dist.DistError:
            lost = "rank 0, or the launcher, which had the shared store"
        # gloo puts a place in its source before, and general advice behind.
        reason = str(error).splitlines()[0].split("] ", 1)[-1].split(". This is", 1)[0]
        raise self.error(f"rank {self._rank} lost {lost} in {where}: {reason}") from error

    def _watch(self) -> None:
        ticks, looks, last = 0, 0, 0.0
        while not self._ended.wait(_BEAT_SECONDS):
            calls, call, since = self._calls, self._name(), self._since
            # Ticks count, not the clock: a run that was suspended as a whole goes on.
            ticks, last, looks = (ticks + 1 if since == last else 0), since, looks + 1
            try:
                self.board.beat(calls, call)
                self._heard = self.board.is_reported()
                if call and ticks * _BEAT_SECONDS >= self._timeout:
                    self._end_hung(calls, call)
                if looks % self._every == 0 and (call or self._awaited):
                    self._look(call)
            except dist.DistError as error:
                self._dead = f"rank {self._rank} lost the shared store: {error}"
                time.sleep(LOST_SECONDS)
                if call and self._calls == calls:
                    self._exit(self._dead)

    def _look(self, call: str) -> None:
        seconds = min(_SILENT_SECONDS, self._timeout)
        looks = max(2, round(seconds / _BEAT_SECONDS / self._every))
        silent = self.board.silent(self._watched, looks)
        names = ", ".join(self.board.described(rank) for rank in silent)
        message = f"no sign of life of {names} for {seconds:g} s"
        if silent and call:
            self._exit(f"rank {self._rank} in call {self._calls} ({call}): {message}")
        if set(silent) & set(self._awaited):
            self._dead = f"rank {self._rank}: {message}"
        for rank in self._awaited:
            left = self.board.departure(rank)
            if left is not None and left.code and (left.error or rank):  # main says what to do
                self._dead = f"rank {rank} ended: {left.error or f'exit code {left.code}'}"

    def _exit(self, message: str) -> None:
        if self.may_speak():
            print(f"error: {message}", file=sys.stderr, flush=True)
            time.sleep(2 * _BEAT_SECONDS)  # the others hear of it
        os._exit(EXIT_HUNG)

    def _end_hung(self, calls: int, call: str) -> None:
        """End, unless it is this process that others wait for: they name it."""
        notes = {rank: self.board.note(rank).calls for rank in range(self._world)}
        behind = [self.board.described(rank) for rank, note in notes.items() if note < calls]
        if behind or max(notes.values()) <= calls:
            self._exit(
                f"rank {self._rank} has waited {self._timeout:g} s in call {calls} ({call}) for "
                f"{', '.join(behind) or 'a process that is in it too'}; "
                "engine.timeout sets how long"
            )
