"""The command line as a user meets it: one clear line for a mistake, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moe_tasks.cli import main
from moe_tasks.train import job
from tests.runs import values, write_tasks

SMALL = [
    "backbone.width=16", "backbone.heads=2", "backbone.ffn=16", "backbone.encoder_layers=1",
    "backbone.decoder_layers=1", "backbone.vocab_size=320", "backbone.pretraining.steps=2",
    "training.steps=6", "training.save_every=2", "training.eval_every=6", "adaptation.steps=2",
    "adaptation.eval_every=2", "adaptation.samples=1", "adaptation.workers=1",
    "sampling.tasks_per_batch=2",    "logging.wandb=disabled",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "moe_tasks.train", *arguments]


def train(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, text=True, capture_output=True,
        timeout=timeout, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["router.num_expert=4"], "'router.num_expert'; did you mean 'router.num_experts'"),
        (["tasks=gmy"], "no option 'gmy' in group 'tasks'; did you mean 'gym'"),
        (["+experiment=fewshoot"], "no option 'fewshoot' in group 'experiment'"),
        (["tasks=gym"], "tasks.path"),
        (["tasks=glue", "tasks.taks=[rte]"], "'tasks.taks'; did you mean 'tasks.tasks'"),
        (["router.num_experts=0"], "'num_experts' is 0"),
        (["router.num_experts=three"], "'router.num_experts' is 'three'; expected int"),
        (["tasks=gym", "tasks.path=nowhere"], "nowhere"),
        (["training.schedule=linaer"], "did you mean 'linear'"),
        (
            ["+systems.extra={modle: dense}"],
            "unknown key 'systems.extra.modle'; did you mean 'model'",
        ),
        (["+systems.extra={routes: randon}"], "did you mean 'random'"),
        (["seed=[1"], "seed"),
    ],
)
def test_mistakes_are_one_clear_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "run_dir=run"])
    with pytest.raises(SystemExit) as stop:
        main(job)
    errors = capfd.readouterr().err
    assert stop.value.code == 2, errors
    assert message in errors
    assert errors.count("error:") == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()  # nothing half-written


def test_ctrl_c_and_resume(tmp_path: Path) -> None:
    tasks = write_tasks(_made(tmp_path / "tasks"))
    arguments = ["tasks=folder", f"tasks.path={tasks}", *SMALL, "run_dir=run"]
    arguments[2:2] = ["training.steps=4000", "training.eval_every=4000"]
    small = [a for a in arguments if a not in ("training.steps=6", "training.eval_every=6")]
    process = subprocess.Popen(
        command(*small), cwd=tmp_path, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("run/checkpoints/multitask/step-*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Error executing" not in errors
    hint = next(line for line in errors.splitlines() if line.startswith("continue with: "))
    assert "run_dir=run" in hint
    assert "resume=auto" in hint
    again = subprocess.Popen(
        command(*small, "resume=auto"), cwd=tmp_path, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert again.stderr is not None
    line = next(line for line in again.stderr if line.startswith("multitask: step"))
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=30)
    assert again.returncode == 143
    assert int(line.split("step ")[1].split("/")[0]) >= 2  # not from the start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_grid_leaves_no_worker_behind(tmp_path: Path, number: signal.Signals) -> None:
    tasks = write_tasks(_made(tmp_path / "tasks"))
    small = [a for a in SMALL if not a.startswith(("adaptation.steps", "adaptation.workers"))]
    grid = ["adaptation.workers=2", "adaptation.steps=2000"]
    arguments = ["tasks=folder", f"tasks.path={tasks}", *small, *grid, "run_dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, text=True, stderr=subprocess.PIPE, env=environment
    )
    try:
        _until(lambda: len(_children(process.pid)) >= 3)  # two workers and spawn's tracker
        time.sleep(4)  # the workers import torch
        children = _children(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    _until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "resume=auto" in errors
        assert "Traceback" not in errors


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_export_of_tasks(export: Callable[..., str], capfd: pytest.CaptureFixture[str]) -> None:
    from moe_tasks.tasks.gym import GymTasks

    assert "wrote gym" in export("out=gym", "tasks.train_rows=null")
    assert len(GymTasks(path="gym").build().tasks) >= 40
    with pytest.raises(SystemExit):
        export("out=gym")
    assert "not empty" in capfd.readouterr().err


def test_a_sweep_makes_a_folder_per_job_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    tasks = write_tasks(_made(tmp_path / "tasks"))
    done = train(
        "--multirun", "tasks=folder", f"tasks.path={tasks}", *SMALL, "run_dir=sweep",
        "router.num_experts=0,2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert (tmp_path / "sweep" / "1" / "gain.json").exists()
    assert "moe" in (tmp_path / "sweep" / "study.md").read_text()
    assert not (tmp_path / "sweep" / "0" / "config.yaml").exists()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_values_here_and_in_conf_have_the_same_keys() -> None:
    """Guards tests.runs against configurations that the entry point would refuse."""
    from moe_tasks.run_config import RunConfig

    assert RunConfig.parse(values(Path("anywhere"))).name == "test"
