"""What each process of a run is doing, noted where all of them can read it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Note:
    """Attributes:
    beats: signs of life so far.
    calls, call: collective calls so far, and the one that the process is in ("" for none).
    """

    beats: int = 0
    calls: int = 0
    call: str = ""


@dataclass(frozen=True)
class Departure:
    """How a process ended: its exit code, and what went wrong ("": nothing of its own)."""

    code: int
    error: str


class Board:
    """Notes of all processes in a shared store.

    Args:
        store: a connection of its own, so that no long wait of another thread holds it up.
    """

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self.rank, self.world = store, rank, world
        self._beats = 0
        self._seen: dict[int, tuple[int, int]] = {}

    def beat(self, calls: int, call: str) -> None:
        """A sign of life of this process."""
        self._beats += 1
        self._set("now", asdict(Note(self._beats, calls, call)))

    def leave(self, code: int, error: str) -> None:
        """The last word of this process."""
        self._set("left", asdict(Departure(code, error)))

    def note(self, rank: int) -> Note:
        """The last sign of life of a process."""
        return Note(**self._get("now", rank))

    def departure(self, rank: int) -> Departure | None:
        """The last word of a process; None while it has not ended, or if it was killed."""
        found = self._get("left", rank)
        return Departure(**found) if found else None

    def is_first(self) -> bool:
        """Whether no process has reported an error yet; then this one is to do it."""
        return self._store.add("reported", 1) == 1

    def is_reported(self) -> bool:
        """Whether some process has reported an error."""
        return self._store.check(["reported"])

    def silent(self, ranks: Iterable[int], looks: int) -> list[int]:
        """Those of ``ranks`` whose note was the same in the last ``looks`` calls.

        Calls count, not seconds: a run that was suspended as a whole goes on.
        """
        for rank in ranks:
            beats, (last, times) = self.note(rank).beats, self._seen.get(rank, (-1, 0))
            self._seen[rank] = (beats, times + 1 if beats == last else 0)
        return [r for r in ranks if self._seen[r][1] >= looks and self.departure(r) is None]

    def failed(self, seconds: float) -> str:
        """Names the processes that ended with an error, or else those that just stopped.

        Args:
            seconds: that one without a sign of life gets.
        """
        others = [rank for rank in range(self.world) if rank != self.rank]
        ended = ((rank, self.departure(rank)) for rank in others)
        names = [f"rank {rank} ({left.error})" for rank, left in ended if left and left.error]
        return ", ".join(names or [self.described(rank) for rank in self._stopped(others, seconds)])

    def described(self, rank: int) -> str:
        """A process and where it was last."""
        note = self.note(rank)
        return f"rank {rank} (last in call {note.calls}, {note.call or 'none'})"

    def _stopped(self, ranks: Iterable[int], seconds: float) -> list[int]:
        until = time.monotonic() + seconds
        before = {rank: self.note(rank).beats for rank in ranks}
        while before and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            before = {
                rank: beats
                for rank, beats in before.items()
                if self.note(rank).beats == beats and self.departure(rank) is None
            }
        return list(before)

    def _set(self, kind: str, values: dict[str, Any]) -> None:
        self._store.set(f"{kind}/{self.rank}", json.dumps(values))

    def _get(self, kind: str, rank: int) -> dict[str, Any]:
        key = f"{kind}/{rank}"
        return json.loads(self._store.get(key)) if self._store.check([key]) else {}
