"""One process per run folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from moe_tasks.errors import UserError
from moe_tasks.training.lock import RunLock


def _hold(folder: Path, connection: Any) -> None:
    with RunLock(folder):
        connection.send(os.getpid())
        time.sleep(60)


def test_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    holder = context.Process(target=_hold, args=(tmp_path / "run", sender), daemon=True)
    holder.start()
    number = receiver.recv()
    with pytest.raises(UserError, match=rf"in use by another process \(process {number} on "):
        RunLock(tmp_path / "run").__enter__()
    holder.kill()
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    assert (tmp_path / "run/.lock").exists()  # stale, and no obstacle
    with RunLock(tmp_path / "run"):
        pass


def test_lock_ends_with_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()}"):
            RunLock(tmp_path).__enter__()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        RunLock(tmp_path / "file").__enter__()
