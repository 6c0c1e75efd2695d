"""Sweeps whose jobs run in other processes: what failed there, the exit status, and the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")

SCRIPT = """\
import os
from moe_tasks.cli import main
from moe_tasks.errors import UserError

def job(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    if values["seed"] == 1:
        raise UserError("seed 1 is unlucky")
    (folder / "done").write_text(str(os.getpid()))

def table(folder):
    print("table", *sorted(path.parent.name for path in folder.glob("*/done")))

main(job, after_sweep=table)
"""


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    given = ["--multirun", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "run_dir=sweep"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return subprocess.run(
        [sys.executable, "script.py", *given, *arguments],
        cwd=folder, env=environment, text=True, capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_failed_job_leaves_the_others_alone_and_shows_in_the_status(tmp_path: Path) -> None:
    done = sweep(tmp_path, "seed=0,1,2")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: seed 1 is unlucky") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "table 0 2"
    others = {int((tmp_path / "sweep" / n / "done").read_text()) for n in "02"}
    assert os.getpid() not in others
