"""Work that processes share: all of it is done once, and what goes wrong is named once."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from moe_tasks.adaptation import PointResult
from moe_tasks.engines.watch import EXIT_HUNG
from moe_tasks.experiment import run
from moe_tasks.grid import RESULTS_FILE
from tests.engines import launching
from tests.runs import values, write_tasks


def _start(case: str, folder: Path, world: int = 2, **environment: str) -> list[Any]:
    module = "tests.engines.queue_worker"
    return launching.start([case], folder, world, module=module, **environment)


def _ended(processes: list[Any]) -> tuple[list[int], str]:
    """Exit codes, and all that was said."""
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], "".join(errors)


def _found(case: str, folder: Path, world: int = 2) -> Any:
    codes, errors = _ended(_start(case, folder, world))
    assert codes == [0] * world, errors
    return json.loads((folder / "results.json").read_text())


def test_every_piece_is_done_once_by_whoever_is_free(tmp_path: Path) -> None:
    first, second, gathered, divided = _found("who", tmp_path, 3)
    for results in (first, second):
        assert [(piece, value) for piece, (_, value) in results] == [
            (piece, piece * 0.1) for piece in range(12)
        ]
        done = [rank for _, (rank, _) in results]
        assert set(done) == {0, 1, 2}
        assert done.count(0) < done.count(1)  # which is quicker
    assert gathered == [{"rank": rank} for rank in range(3)]
    assert divided == [0, -1, -2]


def _points(folder: Path) -> dict[tuple, dict[str, Any]]:
    lines = (folder / RESULTS_FILE).read_text().splitlines()
    found = [vars(PointResult(**json.loads(line))) for line in lines]
    keys = ("system", "task", "sample", "learning_rate", "batch_size")
    points = {
        tuple(point[key] for key in keys): {k: v for k, v in point.items() if k != "seconds"}
        for point in found
    }
    assert len(points) == len(found)
    return points


def test_adaptation_is_that_of_one_process(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    single = tmp_path / "single"
    run(single, values(write_tasks(tasks)), resume=False)
    expected = _points(single)
    shutil.copytree(single, tmp_path / "run")
    lines = (single / RESULTS_FILE).read_text().splitlines(keepends=True)
    # A run that was stopped after five points, in the middle of a line.
    (tmp_path / "run" / RESULTS_FILE).write_text("".join(lines[:5]) + lines[5][:40])
    done = _found("adaptation", tmp_path)
    assert _points(tmp_path / "run") == expected
    assert all(len(of_rank) > 1 for of_rank in done)
    assert sorted(tuple(point) for of_rank in done for point in of_rank) == sorted(
        set(expected) - set(list(expected)[:5])
    )


@pytest.mark.parametrize("stopped", [True, False])
def test_a_mistake_in_another_process_is_told_once(tmp_path: Path, stopped: bool) -> None:
    main, other = processes = _start("fails", tmp_path)
    other.wait(timeout=120)
    if stopped:
        main.send_signal(signal.SIGTERM)  # what a launcher does then
    codes, errors = _ended(processes)
    assert codes == [2, 2], errors
    assert errors.count("error:") == 1
    assert "row 7 is bad" in errors
    assert "Traceback" not in errors


def test_a_dead_process_is_named(tmp_path: Path) -> None:
    codes, errors = _ended(_start("dies", tmp_path, TIMEOUT="3"))
    assert codes == [2, -signal.SIGKILL]
    assert "no sign of life of rank 1" in errors
    assert errors.count("error:") == 1


def test_a_dead_process_is_named_where_a_launcher_stops_the_others(tmp_path: Path) -> None:
    main, other = processes = _start("dies", tmp_path)
    other.wait(timeout=120)
    main.send_signal(signal.SIGTERM)
    codes, errors = _ended(processes)
    assert codes == [2, -signal.SIGKILL]
    assert "rank 1 (last in call" in errors
    assert errors.count("error:") == 1


def test_a_signal_to_one_stops_all(tmp_path: Path) -> None:
    codes, errors = _ended(_start("stops", tmp_path))
    assert codes == [143, 143], errors
    assert errors.count("error:") == 1
    assert "stopped by SIGTERM" in errors


def test_a_process_that_hangs_within_a_call_is_named(tmp_path: Path) -> None:
    codes, errors = _ended(_start("sleeps", tmp_path, TIMEOUT="2"))
    assert codes == [EXIT_HUNG] * 2, errors
    waits = (
        "rank 0 has waited 2 s in call 3 (gradients: sum) for rank 1 (last in call 2, gradients)"
    )
    assert waits in errors
    assert errors.count("error:") == 1
