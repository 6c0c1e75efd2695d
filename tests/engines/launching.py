"""Starts several processes of ``tests.engines.worker`` that find each other."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


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
    command = [sys.executable, "-m", module, ",".join(cases)]
    return [
        subprocess.Popen(
            [*command, str(folder / "results.json")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
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


def run_once(
    name: str, cases: Sequence[str], factory: pytest.TempPathFactory, **options: Any
) -> tuple[Path, dict[str, Any]]:
    """``run`` in a folder ``name``, once for all workers of pytest-xdist; that folder too."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done.json"
        if not done.exists():
            done.write_text("null")  # what fails for one fails for all
            done.write_text(json.dumps(run(cases, folder, **options)))
        results = json.loads(done.read_text())
    assert results is not None, f"{name} failed in another worker"
    return folder, results
