"""The processes of one run: who is the main one, and how the others follow it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from moe_tasks.engines.queue import Queue
from moe_tasks.engines.watch import LOST_SECONDS, Watch
from moe_tasks.errors import UserError
from moe_tasks.training.signals import Interrupted, StopSignals

_POLL_SECONDS = 0.05
_LAST_WORD_SECONDS = 20.0  # how long one that was told to stop waits for the main process


class Processes:
    """One process, alone; the base of more.

    Attributes:
        rank, world: number of this process among ``world``.
    """

    rank, world = 0, 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files, evaluates and reports."""
        return self.rank == 0

    def on_main(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns (JSON-able) in the main process; the others wait for it.

        They wait as long as it takes. Where ``work`` raises, the others end quietly.
        """
        return work()

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return number

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` added up over all processes, in place."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Each process's ``value`` (JSON-able), by rank, in the main process; elsewhere nothing."""
        return [value]

    def spread(
        self, count: int, work: Callable[[int], Any], signals: StopSignals
    ) -> Generator[tuple[int, Any]]:
        """Pieces of work 0 to ``count - 1``, each done by the next process that is free.

        Returns:
            Numbers and results (JSON-able), as they come, in the main process; elsewhere nothing.
            Ends early when any process gets a signal, which ``signals`` then has.

        Raises:
            UserError: a process died.
        """
        for piece in range(count):
            if signals.received is not None:
                return
            yield piece, work(piece)

    def divided(self, what: str, count: int, work: Callable[[int], Any]) -> list[Any]:
        """Results of all pieces in order, as :meth:`spread` finds them; elsewhere nothing.

        Args:
            what: name of the work.

        Raises:
            Interrupted: a signal came (where there is one process, the signal does what it does).
        """
        with StopSignals() if self.world > 1 else nullcontext(StopSignals()) as signals:
            results = dict(self.spread(count, work, signals))
        if signals.received is not None:
            raise Interrupted(signals.received, what, len(results), count, None)
        return [results[piece] for piece in sorted(results)]

    def seconds(self) -> dict[str, float]:
        """By call (see ``calling``), what it took since this was last asked."""
        return {}

    def require_same(self, key: str, value: str) -> None:
        """Raises ``UserError`` where processes were started with different values of ``key``."""

    @contextmanager
    def calling(self, call: str) -> Iterator[None]:
        """Around collective work, so that one that hangs is named."""
        yield

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the group."""


class ProcessGroup(Processes):
    """This process among others that torch has connected.

    Args:
        store: what all share, beside the process group.
        timeout: seconds after which a collective call counts as hung.
    """

    def __init__(self, store: Any, rank: int, world: int, timeout: float, device: str) -> None:
        self.rank, self.world = rank, world
        self._store, self._device = store, device
        self._watch = Watch(store, rank, world, timeout)
        self._messages = 0

    def on_main(self, work: Callable[[], Any]) -> Any:
        self._messages += 1
        key = f"main/{self._messages}"
        if not self.is_main:
            return self._hear(key)
        try:
            result = work()
        except BaseException as error:
            self._store.set(key, json.dumps({"exit": _exit_code(error)}))
            raise
        self._store.set(key, json.dumps({"result": result}))
        return result

    def _hear(self, key: str) -> Any:
        with StopSignals() as signals, self._watch.awaiting(0), self._watch.store_held():
            message = self._message(key, signals)
        if "exit" in message:
            raise SystemExit(message["exit"])
        return message["result"]

    def _message(self, key: str, signals: StopSignals) -> dict[str, Any]:
        told = None
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
            ended = self._watch.board.departure(0)
            if ended is not None and not self._store.check([key]):
                return {"exit": ended.code}
            self._watch.check()
            if signals.received is not None:  # the main process stops too, and says so
                told = told or time.monotonic()
                if time.monotonic() - told > _LAST_WORD_SECONDS:
                    return {"exit": 128 + signals.received}
        return json.loads(self._store.get(key))

    def largest(self, number: int) -> int:
        value = torch.tensor([number], device=self._device)
        with self.calling("agreement"):
            dist.all_reduce(value, dist.ReduceOp.MAX)
            return int(value)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        with self.calling("sum"):
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        self._messages += 1
        keys = [f"gather/{self._messages}/{rank}" for rank in range(self.world)]
        self._store.set(keys[self.rank], json.dumps(value))
        if not self.is_main:
            return []
        with self._watch.awaiting(*range(1, self.world)), self._watch.store_held():
            while not self._store.check(keys):
                self._watch.check()
                time.sleep(_POLL_SECONDS / 10)
        found = [json.loads(self._store.get(key)) for key in keys]
        for key in keys:
            self._store.delete_key(key)
        return found

    def spread(
        self, count: int, work: Callable[[int], Any], signals: StopSignals
    ) -> Generator[tuple[int, Any]]:
        self._messages += 1
        store = PrefixStore(f"queue/{self._messages}", self._store)
        queue = Queue(store, self._watch, self.rank, self.world, count)
        with self._watch.store_held():
            if self.is_main:
                yield from queue.lead(work, signals)
            else:
                queue.follow(work, signals)

    def seconds(self) -> dict[str, float]:
        return self._watch.seconds()

    def require_same(self, key: str, value: str) -> None:
        of_main = self.on_main(lambda: value)
        if of_main != value:
            raise UserError(
                f"rank {self.rank} was started with {key}={value}, rank 0 with {of_main}; give "
                f"{key} on the command line, as the scripts in launch/ do"
            )

    @contextmanager
    def calling(self, call: str) -> Iterator[None]:
        with self._watch.over(call):
            yield

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._leave(error)
        finally:
            self._watch.end()
        if error is None:  # else the others may never come
            dist.destroy_process_group()

    def _leave(self, error: BaseException | None) -> None:
        """Tell the others how this process ends. Of all that fail, the first one says why."""
        board, code = self._watch.board, _exit_code(error)
        with suppress(dist.DistError):  # the store may have gone with the process that had it
            if isinstance(error, Interrupted):
                # A launcher stops all when one fails.
                failed = board.failed(LOST_SECONDS) if self.is_main else ""
                board.leave(code, "")
                if failed:
                    raise self._watch.error(f"{failed} ended; {error}") from error
                if not self.is_main:
                    raise SystemExit(code)  # all were stopped; one says so
            elif error is None or isinstance(error, SystemExit):
                board.leave(code, "")
                if self.is_main and error is None:
                    self._wait_for_others()  # they may still read from a store that ends with us
            else:
                text = str(error) if isinstance(error, UserError) else repr(error)
                board.leave(code, text.splitlines()[0])
                if isinstance(error, UserError) and not self._watch.may_speak():
                    raise SystemExit(code)

    def _wait_for_others(self) -> None:
        others = range(1, self.world)
        with self._watch.awaiting(*others):
            while any(self._watch.board.departure(rank) is None for rank in others):
                self._watch.check()
                time.sleep(_POLL_SECONDS)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError) else getattr(error, "exit_code", 1)
