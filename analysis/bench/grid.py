"""Adaptation points per second: the grid, and the form that starts a process for every point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from analysis.bench.race import Contender, Measures, Repeat
from analysis.bench.setting import Setting
from moe_tasks.errors import UserError

NAIVE, GRID, GRID_ONE = "naive", "grid", "grid_1_worker"
RATE = "rate"
_SYSTEM = "moe"
_RUN = [
    "~systems.direct", "~systems.multitask", "backbone.pretraining.steps=0", "training.steps=2",
    "training.save_every=null", "logging.wandb=disabled", "logging.progress=false",
    "adaptation.samples=1", "adaptation.steps=1", "adaptation.eval_every=1",
]  # fmt: skip


def contenders(
    setting: Setting, steps: int, points: int, overrides: tuple[str, ...] = ()
) -> list[Contender]:
    """A process per point (the base), the grid, and the grid with one worker.

    Args:
        steps: of adaptation per point.
        points: per task in the grid; the naive form does as many, of one task.
        overrides: more keys for the run whose systems are adapted, as on the command line.
    """
    prepare = partial(prepare_grid, steps, points, overrides)
    return [Contender(name, prepare, setting.using(name)) for name in (NAIVE, GRID, GRID_ONE)]


def prepare_grid(steps: int, points: int, overrides: tuple[str, ...], setting: Setting) -> Repeat:
    """Seconds per point, and points per second."""
    folder = tempfile.TemporaryDirectory(prefix="bench-grid-")
    run = Path(folder.name) / "run"
    _train(run, setting, overrides)
    workers = 1 if setting.scheme != GRID else None
    _change(run, steps, points, workers)

    def repeat() -> Measures:
        assert folder  # keeps the folder until the process ends
        done, seconds = _naive(run) if setting.scheme == NAIVE else _grid(run)
        return {"": seconds / done, RATE: done / seconds}

    return repeat


def _train(run: Path, setting: Setting, overrides: tuple[str, ...]) -> None:
    command = [
        sys.executable, "-m", "moe_tasks.train", *_RUN, f"run_dir={run}",
        f"data.cache_dir={run.parent / 'cache'}", f"device={setting.device}",
        f"num_threads={setting.threads}", *overrides,
    ]  # fmt: skip
    _call(command)


def _change(run: Path, steps: int, points: int, workers: int | None) -> None:
    """Give the finished run the grid that is measured."""
    values: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    rates = [1e-3 * 2**-number for number in range(points)]
    values["adaptation"] |= {
        "steps": steps, "eval_every": max(1, steps // 2), "learning_rates": rates,
        "batch_sizes": [32], "workers": workers,
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def _grid(run: Path) -> tuple[int, float]:
    """Points done and seconds taken by one process that works off the whole grid."""
    (run / "adaptation.jsonl").unlink(missing_ok=True)
    seconds = _call([sys.executable, "-m", "analysis.bench.grid", "grid", str(run)])
    lines = (run / "adaptation.jsonl").read_text(encoding="utf-8").splitlines()
    return len(lines), seconds


def _naive(run: Path) -> tuple[int, float]:
    """As ``_grid``, for one task's points, each by a process that loads and tokenises anew."""
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    rates = values["adaptation"]["learning_rates"]
    seconds = 0.0
    for rate in rates:
        shutil.rmtree(run.parent / "cache", ignore_errors=True)
        command = [sys.executable, "-m", "analysis.bench.grid", "point", str(run), str(rate)]
        seconds += _call(command)
    return len(rates), seconds


def _call(command: list[str]) -> float:
    """Run to the end; seconds. ``UserError`` with its last line if it fails."""
    began = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return time.perf_counter() - began


def _do(form: str, folder: str, *rate: str) -> None:
    """What the measured processes run: the grid of ``folder``, or one point of its first cell."""
    import torch

    from moe_tasks.adaptation import Cell
    from moe_tasks.grid import run_grid
    from moe_tasks.workspace import Workspace

    workspace = Workspace.open(folder)
    torch.set_num_threads(1)
    if form == "grid":
        run_grid(workspace, lambda done, total, name: None)
        return
    task, sample = next(workspace.data.unseen_cells("test", 1))
    result = workspace.adapter(_SYSTEM).run(Cell(_SYSTEM, task, sample), float(rate[0]), 32)
    print(json.dumps(result.test))


if __name__ == "__main__":
    _do(*sys.argv[1:])
