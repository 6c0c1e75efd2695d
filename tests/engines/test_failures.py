"""A process that dies or hangs ends the others, with the rank and the call named."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

from moe_tasks.engines.watch import EXIT_HUNG
from tests.engines import launching


def test_a_process_that_never_comes_is_named(tmp_path: Path) -> None:
    waiting, absent = launching.start(["hang"], tmp_path, 2, TIMEOUT="2")
    _, error = waiting.communicate(timeout=120)
    absent.kill()
    absent.communicate()
    assert waiting.returncode == EXIT_HUNG
    assert "rank 0 has waited 2 s in call 1 (agreement) for rank 1 (last in call 0" in error
    assert "engine.timeout" in error


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    alive, killed = launching.start(["killed"], tmp_path, 2)
    _, of_killed = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, of_killed
    since = time.monotonic()
    _, error = alive.communicate(timeout=120)
    assert time.monotonic() - since < 60
    assert alive.returncode > 0
    assert re.search(r"rank 0 lost rank 1 \(last in call \d+, .*\) in call \d+ \(", error), error
