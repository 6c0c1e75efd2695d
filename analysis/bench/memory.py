"""Peak memory of a training step beyond weights and optimizer state.

On the CPU every allocation and release that torch's allocator sees during one step is recorded
by the profiler and added up, temporary buffers of kernels included; on a GPU torch keeps the peak.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from analysis.bench.race import Measures, Repeat
from analysis.bench.setting import Setting
from analysis.bench.training import Step

GRADIENTS = "gradients"
_MIB = 2**20


def prepare(setting: Setting) -> Repeat:
    """MiB at the peak of one step, and of all gradients together when it ends."""
    step = Step(setting)
    step.warm_up()
    gradients = 0.0

    def work() -> None:
        nonlocal gradients
        step.backward()
        grads = (p.grad for p in step.model.parameters() if p.grad is not None)
        gradients = sum(g.numel() * g.element_size() for g in grads) / _MIB
        step.update()

    def repeat() -> Measures:
        return {"": peak_bytes(work, setting.device) / _MIB, GRADIENTS: gradients}

    return repeat


def peak_bytes(work: Callable[[], None], device: str = "cpu") -> int:
    """Most bytes that ``work`` held at once, beyond what was there before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    held = peak = 0
    for change in _changes(work):
        held += change
        peak = max(peak, held)
    return peak


def _changes(work: Callable[[], None]) -> list[int]:
    """Bytes of every allocation (positive) and release (negative), in order of time."""
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    return [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler writes of its own doings to the standard error stream."""
    before = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)
