"""Starts several processes of ``tests.engines.worker`` that find each other."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What a process that trains with DeepSpeed imports, in the end; other tests fork from it, too.
PRELOADED = (
    "analysis.bench.training",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "tests.engines.worker",
    "tests.engines.experts_worker",
    "tests.engines.queue_worker",
)


class Launched:
    """One process that runs the ``main`` of a module, as ``subprocess.Popen`` would.

    It is forked from a server that has imported :data:`PRELOADED` and run nothing; a Python that
    starts anew spends its first five seconds with that.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self._log = log
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_main_of, args=(module, arguments, environment, log), daemon=True
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> None:
        self._process.join(timeout)
        if self._process.is_alive():
            raise TimeoutError(f"still running after {timeout} s: {self._log.read_text()[-2000:]}")

    def communicate(self, timeout: float = 120) -> tuple[None, str]:
        """What it wrote to stderr, once it has ended."""
        self.wait(timeout)
        return None, self._log.read_text()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _main_of(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


def start(
    cases: Sequence[str],
    folder: Path,
    world: int,
    module: str = "tests.engines.worker",
    **environment: str,
) -> list[Any]:
    """The processes, by rank; the main one writes ``folder/results.json``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(world), **environment,
    }  # fmt: skip
    arguments = [",".join(cases), str(folder / "results.json")]
    return [
        Launched(
            module,
            arguments,
            {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            folder / f"stderr-{rank}",
        )
        for rank in range(world)
    ]


def run(
    cases: Sequence[str], folder: Path, world: int = 2, timeout: float = 400, **options: Any
) -> dict[str, Any]:
    """What the cases found; ``options`` are those of ``start``."""
    processes = start(cases, folder, world, **options)
    errors = [process.communicate(timeout=timeout)[1] for process in processes]
    assert [p.returncode for p in processes] == [0] * world, "\n".join(errors)[-6000:]
    return json.loads((folder / "results.json").read_text())


def found(case: str, folder: Path, world: int = 2, **options: Any) -> Any:
    """What one case found."""
    return run([case], folder, world, **options)[case]
