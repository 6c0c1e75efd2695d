"""Independent jobs on one machine, done by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from moe_tasks.errors import UserError
from moe_tasks.runtime import end_with_parent, keep_freed_memory

_POLL_SECONDS = 0.5
Job = tuple[Any, ...]
Work = Callable[..., Any]


def num_workers(wanted: int | None, num_jobs: int) -> int:
    """Processes to use: what is wanted, or one per core up to 8; never more than jobs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if wanted is None and torch.cuda.is_available():
        wanted = 1  # processes would share one device
    return max(1, min(wanted or min(cores or 1, 8), num_jobs))


def pooled(
    jobs: Iterable[Job],
    workers: int,
    make: Callable[..., Work],
    arguments: tuple[Any, ...],
    stopped: Callable[[], bool] = lambda: False,
    again: str = "the same command",
) -> Generator[tuple[Job, Any]]:
    """Jobs with what they returned, as they come; ends early when ``stopped``, or closed.

    Args:
        make: called with ``arguments`` once in every process; what it returns does each job.
        again: what goes on after a process died, told to the user.

    Raises:
        UserError: a job raised one, or a process died.
    """
    # spawn: forked children of a process that used OpenMP threads can hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (make, arguments, os.getpid()))
    waiting: set[Future[Any]] = set()
    try:
        submitted = {pool.submit(_do, job): job for job in jobs}
        waiting = set(submitted)
        while waiting and not stopped():
            finished, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
            for future in finished:
                yield submitted[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process died ({error}); what is finished is kept, {again} goes on"
        ) from error
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes if waiting else ():  # stopped: none is waited for
            process.terminate()


_work: Work | None = None


def _start(make: Callable[..., Work], arguments: tuple[Any, ...], parent: int) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and decides
    end_with_parent(parent)
    torch.set_num_threads(1)
    keep_freed_memory()
    _work = make(*arguments)


def _do(job: Job) -> Any:
    assert _work is not None
    return _work(*job)
