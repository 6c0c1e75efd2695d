"""The adaptation grid as a queue of cells, worked off by several processes, never done twice."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import torch

from moe_tasks.adaptation import Adapter, Cell, PointResult
from moe_tasks.errors import UserError
from moe_tasks.workspace import Workspace

logger = logging.getLogger(__name__)

RESULTS_FILE = "adaptation.jsonl"
Point = tuple[float, int]


def num_workers(wanted: int | None, num_cells: int) -> int:
    """Processes to use: what is wanted, or one per core up to 8; never more than cells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if wanted is None and torch.cuda.is_available():
        wanted = 1  # processes would share one device
    return max(1, min(wanted or min(cores or 1, 8), num_cells))


def run_grid(
    workspace: Workspace, on_progress: Callable[[int, int, str], None]
) -> list[PointResult]:
    """All grid points of all systems, unseen tasks and samples; finished ones are read back.

    Results are appended to ``adaptation.jsonl`` as they come. ``on_progress(done, total, name)``
    is called after each point.

    Raises:
        UserError: a worker reported one, or died.
    """
    file = workspace.folder / RESULTS_FILE
    done = _read(file)
    grid = list(workspace.config.adaptation.grid())
    cells = list(_cells(workspace))
    total = len(cells) * len(grid)
    work = [(cell, [p for p in grid if _key(cell, p) not in done]) for cell in cells]
    work = [(cell, points) for cell, points in work if points]
    results = {k: r for k, r in done.items() if k in {_key(c, p) for c in cells for p in grid}}
    on_progress(len(results), total, "adaptation")
    with file.open("a", encoding="utf-8") as out:
        for result in _work_off(workspace, work):
            results[_key(_cell(result), (result.learning_rate, result.batch_size))] = result
            out.write(json.dumps(asdict(result)) + "\n")
            out.flush()
            on_progress(len(results), total, f"{result.system}: {result.task}")
    return [results[_key(cell, point)] for cell in cells for point in grid]


def best_points(results: Sequence[PointResult]) -> list[PointResult]:
    """Per system, task and sample the point with the best dev score (the first of equals)."""
    best: dict[Cell, PointResult] = {}
    for result in results:
        cell = _cell(result)
        if cell not in best or result.dev > best[cell].dev:
            best[cell] = result
    return list(best.values())


def _cells(workspace: Workspace) -> Iterator[Cell]:
    samples = workspace.config.adaptation.samples
    for system in workspace.config.systems:
        for task, sample in workspace.data.unseen_cells("test", samples):
            yield Cell(system, task, sample)


def _work_off(workspace: Workspace, work: list[tuple[Cell, list[Point]]]) -> Iterator[PointResult]:
    workers = num_workers(workspace.config.adaptation.workers, len(work))
    if workers == 1:
        adapters = _Adapters(workspace)
        for cell, points in work:
            yield from adapters.run(cell, points)
        return
    # spawn: forked children of a process that used OpenMP threads can hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (str(workspace.folder),))
    try:
        waiting: set[Future[list[PointResult]]] = {
            pool.submit(_run_in_worker, cell, points) for cell, points in work
        }
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield from future.result()
    except multiprocessing.ProcessError as error:
        raise UserError(f"an adaptation worker died: {error}; resume=auto continues") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Adapters:
    """One system's adapter at a time: cells come system by system."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.loaded: tuple[str, Adapter] | None = None

    def run(self, cell: Cell, points: Sequence[Point]) -> list[PointResult]:
        if self.loaded is None or self.loaded[0] != cell.system:
            self.loaded = (cell.system, self.workspace.adapter(cell.system))
        return [self.loaded[1].run(cell, *point) for point in points]


_worker: _Adapters | None = None


def _start_worker(folder: str) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = _Adapters(Workspace.open(folder))


def _run_in_worker(cell: Cell, points: list[Point]) -> list[PointResult]:
    assert _worker is not None
    return _worker.run(cell, points)


def _cell(result: PointResult) -> Cell:
    return Cell(result.system, result.task, result.sample)


def _key(cell: Cell, point: Point) -> tuple[Cell, Point]:
    return cell, point


def _read(file: Path) -> dict[tuple[Cell, Point], PointResult]:
    """Finished points; a last line cut short by a kill is dropped from the file."""
    if not file.exists():
        return {}
    results, good = {}, []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            result = PointResult(**json.loads(line))
        except (ValueError, TypeError):
            logger.warning("%s: dropped an unreadable line", file)
            continue
        results[_key(_cell(result), (result.learning_rate, result.batch_size))] = result
        good.append(line if line.endswith("\n") else line + "\n")
    file.write_text("".join(good), encoding="utf-8")
    return results
