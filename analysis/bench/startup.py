"""Time from the start of ``python -m moe_tasks.train`` to its first finished training step."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from analysis.bench.race import Contender, Measures, Repeat
from analysis.bench.setting import Setting
from moe_tasks.errors import UserError

IMPORTS, COLD, WARM = "imports", "cold", "warm"
_POLL_SECONDS = 0.005
_LIMIT_SECONDS = 600
# The routed system alone, so that its task vectors and its conversion are in the time too.
_OVERRIDES = [
    "~systems.direct", "~systems.multitask", "backbone.pretraining.steps=0", "training.log_every=1",
    "training.save_every=null", "logging.wandb=disabled", "logging.progress=false",
]  # fmt: skip


def contenders(setting: Setting, overrides: tuple[str, ...] = ()) -> list[Contender]:
    """Bare imports (the base), a run without any cache, and one that finds its caches.

    Args:
        overrides: more keys for the run, as on the command line.
    """
    prepare = partial(prepare_start, overrides)
    return [Contender(name, prepare, setting.using(name)) for name in (IMPORTS, COLD, WARM)]


def prepare_start(overrides: tuple[str, ...], setting: Setting) -> Repeat:
    """Seconds until the first step; for ``imports`` until torch and transformers are there."""
    folder = tempfile.TemporaryDirectory(prefix="bench-startup-")
    path = Path(folder.name)
    numbers = itertools.count()

    def repeat() -> Measures:
        assert folder  # keeps the folder until the process ends
        if setting.scheme == IMPORTS:
            return {"": _imports()}
        number = next(numbers)
        cache = path / ("cache" if setting.scheme == WARM else f"cache-{number}")
        seconds = first_step(path / f"run-{number}", cache, setting, overrides)
        shutil.rmtree(path / f"run-{number}", ignore_errors=True)
        return {"": seconds}

    repeat()  # also makes the caches, and reads all files once
    return repeat


def _imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, transformers"], check=True)
    return time.perf_counter() - began


def first_step(run: Path, cache: Path, setting: Setting, overrides: tuple[str, ...]) -> float:
    """Seconds until a new run in ``run`` has logged its first training step.

    Raises:
        UserError: the run ended before.
    """
    command = [
        sys.executable, "-m", "moe_tasks.train", *_OVERRIDES, f"run_dir={run}",
        f"data.cache_dir={cache}", f"device={setting.device}",
        f"num_threads={setting.threads}", *overrides,
    ]  # fmt: skip
    began = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while not _stepped(run / "train.jsonl"):
            if process.poll() is not None or time.perf_counter() - began > _LIMIT_SECONDS:
                raise UserError(f"no training step: {_last_line(process)}")
            time.sleep(_POLL_SECONDS)
        return time.perf_counter() - began
    finally:
        process.kill()
        process.communicate()


def _last_line(process: subprocess.Popen[str]) -> str:
    process.kill()
    lines = process.communicate()[1].strip().splitlines()
    return lines[-1] if lines else "the run said nothing"


def _stepped(log: Path) -> bool:
    if not log.exists():
        return False
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    return any(line.endswith("\n") and json.loads(line)["step"] > 0 for line in lines)
