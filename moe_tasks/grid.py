"""The adaptation grid as a queue of cells, worked off by several processes, never done twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moe_tasks.adaptation import Adapter, Cell, PointResult
from moe_tasks.engines.processes import Processes
from moe_tasks.pool import num_workers, pooled
from moe_tasks.training.signals import Interrupted, StopSignals
from moe_tasks.workspace import Workspace

logger = logging.getLogger(__name__)

RESULTS_FILE = "adaptation.jsonl"
Point = tuple[float, int]


def run_grid(
    workspace: Workspace,
    on_progress: Callable[[int, int, str], None],
    processes: Processes | None = None,
) -> list[PointResult]:
    """All grid points of all systems, unseen tasks and samples; finished ones are read back.

    Results are appended to ``adaptation.jsonl`` as they come. ``on_progress(done, total, name)``
    is called after each point.

    Args:
        processes: that share the points; those of one machine that ``adaptation.workers`` says
            where there is one only. What is returned is the main one's; others get an empty list.

    Raises:
        UserError: a process reported one, or died.
        Interrupted: a signal came; finished points are kept.
    """
    processes = processes or Processes()
    if not processes.is_main:
        _serve(workspace, processes)
        return []
    file = workspace.folder / RESULTS_FILE
    grid = _grid(workspace)
    wanted = [(cell, point) for cell, points in grid for point in points]
    done = _read(file)
    results = {key: done[key] for key in wanted if key in done}
    work = [(cell, [p for p in points if (cell, p) not in results]) for cell, points in grid]
    work = [(cell, points) for cell, points in work if points]
    total = len(wanted)
    on_progress(len(results), total, "starting")
    with StopSignals() as signals, file.open("a", encoding="utf-8") as out:
        found = _work_off(workspace, work, signals, processes)
        try:
            with closing(found):
                for result in found:
                    results[_key(result)] = result
                    out.write(json.dumps(asdict(result)) + "\n")
                    out.flush()
                    on_progress(len(results), total, f"{result.system}: {result.task}")
        except Interrupted as stop:  # from the training of one point, in this process
            signals.received = stop.signal
        if signals.received is not None:
            raise Interrupted(signals.received, "adaptation", len(results), total, file)
    return [results[key] for key in wanted]


def best_points(results: Sequence[PointResult]) -> list[PointResult]:
    """Per system, task and sample the point with the best dev score (the first of equals)."""
    best: dict[Cell, PointResult] = {}
    for result in results:
        cell = _cell(result)
        if cell not in best or result.dev > best[cell].dev:
            best[cell] = result
    return list(best.values())


def _grid(workspace: Workspace) -> list[tuple[Cell, list[Point]]]:
    """Every system, unseen task and sample, each with its grid points."""
    config = workspace.config
    return [
        (Cell(name, task, sample), list(system.adaptation(config.adaptation).grid()))
        for name, system in config.systems.items()
        for task, sample in workspace.data.unseen_cells("test", config.adaptation.samples)
    ]


def _work_off(
    workspace: Workspace,
    work: list[tuple[Cell, list[Point]]],
    signals: StopSignals,
    processes: Processes,
) -> Generator[PointResult]:
    """Results as they come; ends early when a signal was received."""
    workers = num_workers(workspace.config.adaptation.workers, len(work))
    if processes.world == 1 and workers > 1:
        arguments = (str(workspace.folder),)
        pool = pooled(
            work, workers, _adapted, arguments, lambda: signals.received is not None, "resume=auto"
        )
        with closing(pool) as done:
            for _, results in done:
                yield from results
        return
    pieces = [(asdict(cell), point) for cell, points in work for point in points]
    processes.on_main(lambda: pieces)
    with closing(_shared(workspace, pieces, signals, processes)) as found:
        for _, result in found:
            yield PointResult(**result)


def _serve(workspace: Workspace, processes: Processes) -> None:
    """Another process's part of :func:`_work_off`."""
    pieces = processes.on_main(list)
    with StopSignals() as signals:
        for _ in _shared(workspace, pieces, signals, processes):
            pass


def _shared(
    workspace: Workspace,
    pieces: Sequence[tuple[dict[str, str], Point]],
    signals: StopSignals,
    processes: Processes,
) -> Generator[tuple[int, dict[str, Any]]]:
    adapters = _Adapters(workspace)

    def work(number: int) -> dict[str, Any]:
        cell, (rate, size) = pieces[number]
        (result,) = adapters.run(Cell(**cell), [(rate, size)])
        return asdict(result)

    return processes.spread(len(pieces), work, signals)


class _Adapters:
    """One system's adapter at a time: cells come system by system."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.loaded: tuple[str, Adapter] | None = None

    def run(self, cell: Cell, points: Sequence[Point]) -> list[PointResult]:
        if self.loaded is None or self.loaded[0] != cell.system:
            self.loaded = (cell.system, self.workspace.adapter(cell.system))
        return [self.loaded[1].run(cell, *point) for point in points]


def _adapted(folder: str) -> Callable[[Cell, Sequence[Point]], list[PointResult]]:
    return _Adapters(Workspace.open(folder)).run


def _cell(result: PointResult) -> Cell:
    return Cell(result.system, result.task, result.sample)


def _key(result: PointResult) -> tuple[Cell, Point]:
    return _cell(result), (result.learning_rate, result.batch_size)


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
        results[_key(result)] = result
        good.append(line if line.endswith("\n") else line + "\n")
    file.write_text("".join(good), encoding="utf-8")
    return results
