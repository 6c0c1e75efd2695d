"""Starts several processes of ``tests.engines.worker`` that find each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
    cases: Sequence[str], folder: Path, world: int = 2, timeout: float = 200, **options: Any
) -> dict[str, Any]:
    """What the cases found; ``options`` are those of ``start``."""
    processes = start(cases, folder, world, **options)
    errors = [process.communicate(timeout=timeout)[1] for process in processes]
    assert [p.returncode for p in processes] == [0] * world, "\n".join(errors)[-6000:]
    return json.loads((folder / "results.json").read_text())
