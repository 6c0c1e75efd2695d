"""One of several processes that share work: ``python -m tests.engines.queue_worker CASE OUT``.

They are connected as training's are, without DeepSpeed. The main process prints what it got.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from moe_tasks.engines.processes import ProcessGroup
from moe_tasks.errors import UserError
from moe_tasks.training.signals import Interrupted, StopSignals


def join(timeout: float) -> ProcessGroup:
    store, rank, world = next(rendezvous("env://"))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    return ProcessGroup(PrefixStore("test", store), rank, world, timeout, "cpu")


def spread(processes: ProcessGroup, work) -> list:
    with StopSignals() as signals:
        found = sorted(processes.spread(12, work, signals))
    processes.on_main(lambda: None)
    return found


def who(processes: ProcessGroup, out: Path) -> list:
    """Which process did what, main being slow; then once more."""

    def work(piece: int) -> list:
        time.sleep(0.05 if processes.rank else 0.3)
        return [processes.rank, piece * 0.1]

    first = spread(processes, work)
    gathered = processes.gather({"rank": processes.rank})
    return [first, spread(processes, work), gathered, processes.divided("x", 3, lambda n: -n)]


def adaptation(processes: ProcessGroup, out: Path) -> list:
    """The grid of the run in ``out/run``; notes which process ran which point."""
    from moe_tasks import grid  # the other cases need none of it
    from moe_tasks.workspace import Workspace

    run = grid._Adapters.run
    mine = []

    def noted(self, cell, points):
        mine.append([cell.system, cell.task, cell.sample, *points[0]])
        return run(self, cell, points)

    grid._Adapters.run = noted  # type: ignore[method-assign]
    grid.run_grid(Workspace.open(out / "run"), lambda *_: None, processes)
    return processes.gather(mine)


def fails(processes: ProcessGroup, out: Path) -> list:
    """Process 1 makes a mistake."""

    def work(piece: int) -> int:
        if processes.rank == 1:
            raise UserError("row 7 is bad")
        time.sleep(0.3)
        return piece

    return processes.divided("work", 12, work)


def dies(processes: ProcessGroup, out: Path) -> list:
    """Process 1 is killed in its second piece."""
    done = []

    def work(piece: int) -> int:
        if processes.rank == 1 and done:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(piece)
        time.sleep(0.1)
        return piece

    return processes.divided("work", 12, work)


def stops(processes: ProcessGroup, out: Path) -> list:
    """One process alone is told to stop."""

    def work(piece: int) -> int:
        if processes.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        return piece

    return processes.divided("work", 12, work)


def sleeps(processes: ProcessGroup, out: Path) -> None:
    """Process 1 never ends its arithmetic, while the others wait for its part of a sum."""
    processes.largest(3)
    with processes.calling("gradients"):
        if processes.rank == 1:
            time.sleep(60)
        processes.sum(torch.ones(2))


def main() -> None:
    torch.set_num_threads(1)
    case, out = sys.argv[1], Path(sys.argv[2])
    try:
        with join(float(os.environ.get("TIMEOUT", "60"))) as processes:
            found = globals()[case](processes, out.parent)
            if processes.is_main:
                out.write_text(json.dumps(found))
            processes.on_main(lambda: None)
    except (UserError, Interrupted) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
