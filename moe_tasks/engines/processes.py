"""The processes of one run: who is the main one, and how the others follow it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from moe_tasks.engines.watch import Watch
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
        told = None
        with StopSignals() as signals:
            while not self._store.check([key]):
                time.sleep(_POLL_SECONDS)
                if signals.received is not None:  # the main process stops too, and says so
                    told = told or time.monotonic()
                    if time.monotonic() - told > _LAST_WORD_SECONDS:
                        raise SystemExit(128 + signals.received)
        message = json.loads(self._store.get(key))
        if "exit" in message:
            raise SystemExit(message["exit"])
        return message["result"]

    def largest(self, number: int) -> int:
        value = torch.tensor([number], device=self._device)
        with self.calling("agreement"):
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(values)
        return values

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
        self._watch.end()
        if error is None:  # else the others may never come
            dist.destroy_process_group()
        elif isinstance(error, Interrupted) and not self.is_main:
            raise SystemExit(error.exit_code)  # all were; one says so


def _exit_code(error: BaseException) -> int:
    return 2 if isinstance(error, UserError) else getattr(error, "exit_code", 1)
