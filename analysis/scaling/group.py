"""Several processes that make the same training steps, led by the one that is measured."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from multiprocessing.util import Finalize

import torch

from analysis.bench.models import batch, limit_threads, model_of, synchronise
from analysis.bench.race import Measures, Repeat
from analysis.bench.setting import Setting
from moe_tasks.engines.base import Engine
from moe_tasks.engines.config import EngineConfig
from moe_tasks.engines.processes import Processes
from moe_tasks.errors import UserError
from moe_tasks.training.config import TrainingConfig

_WARM_UP, _STEPS = 2, 3
_TIMEOUT_SECONDS = 3600.0  # they wait for their turn inside a collective call
_END, _STEP, _EXCHANGE = 1, 2, 3
_WORDS = {"small": 256, "large": 2**22}  # of exchanged float32 numbers
# CPU seconds of all processes, and those of the main one before and in the update.
CPU, PASSES, UPDATE, EXCHANGE = "cpu", "passes", "update", "exchange_"


class Member:
    """One process of ``world``, with DeepSpeed at a ZeRO stage; stage None: the plain engine.

    Args:
        setting: of all processes' rows together; each computes its share with one thread.
    """

    def __init__(self, setting: Setting, world: int, stage: int | None) -> None:
        limit_threads(setting)
        name = "local" if stage is None else "deepspeed"
        config = EngineConfig(name, stage or 0, timeout=_TIMEOUT_SECONDS)
        self.processes: Processes = config.start(setting.device)
        self._device = setting.device
        training = TrainingConfig(precision=setting.precision)
        self._rates = training.rates
        make = config.maker(self.processes)
        self._engine: Engine = make(model_of(setting).train(), training)
        self._batch = batch(setting)
        self._spent = {PASSES: 0.0, UPDATE: 0.0}
        for _ in range(_WARM_UP):
            self.step()

    def step(self) -> None:
        """Forward, backward, update."""
        began = time.process_time()
        norm = float(self._engine.backward([self._batch])[1])
        between = time.process_time()
        self._engine.update(self._rates, norm)
        self._engine.zero_gradients()
        self._spent[PASSES] += between - began
        self._spent[UPDATE] += time.process_time() - between

    def follow(self) -> None:
        """Do as the main process says, until it ends."""
        while (order := self.processes.largest(0)) != _END:
            self.work(order)

    def lead(self) -> Measures:
        """A few steps and exchanges of all: seconds of one step, of one sum, and CPU seconds."""
        self.processes.largest(_STEP)
        figures = self.work(_STEP)
        self.processes.largest(_EXCHANGE)
        return {**figures, **self.work(_EXCHANGE)}

    def work(self, order: int) -> Measures:
        """One order; in the main process its figures, per step or sum of numbers."""
        if order == _EXCHANGE:
            return {f"{EXCHANGE}{name}": self._exchange(size) for name, size in _WORDS.items()}
        self._spent = {PASSES: 0.0, UPDATE: 0.0}
        began = time.perf_counter()
        for _ in range(_STEPS):
            self.step()
        synchronise(self._device)
        seconds = time.perf_counter() - began
        cpu = sum(self.processes.gather(sum(self._spent.values())))
        figures = {"": seconds, CPU: cpu, **self._spent}
        return {name: value / _STEPS for name, value in figures.items()}

    def _exchange(self, size: int) -> float:
        values = torch.zeros(size, device=self._device)
        self.processes.largest(0)  # all are here
        began = time.perf_counter()
        for _ in range(_STEPS):
            self.processes.sum(values)
        synchronise(self._device)
        return (time.perf_counter() - began) / _STEPS


def prepare(setting: Setting, world: int, stage: int | None) -> Repeat:
    """What measures ``world`` processes; this one becomes the main one."""
    others = _start_others(setting, world, stage)
    try:
        member = Member(setting, world, stage)
    except BaseException:
        for process in others:
            process.kill()
        raise
    # Where a process of multiprocessing ends, nothing else is called.
    Finalize(None, member.processes.largest, (_END,), exitpriority=1)
    return member.lead


def bytes_exchanged() -> dict[str, int]:
    """By name of an exchange, bytes that each process gives to the sum."""
    return {name: 4 * size for name, size in _WORDS.items()}


def _start_others(setting: Setting, world: int, stage: int | None) -> list[subprocess.Popen[bytes]]:
    if world == 1:
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    os.environ.update(shared, RANK="0", LOCAL_RANK="0", OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", __name__, json.dumps([asdict(setting), world, stage])]
    return [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(1, world)
    ]


def main() -> None:
    """Another process than the main one."""
    values, world, stage = json.loads(sys.argv[1])
    try:
        Member(Setting(**values), world, stage).follow()
    except UserError as error:  # the main process has ended, or cannot go on either
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
