"""The launchers, from the command to the tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import write_tasks

ROOT = Path(__file__).parents[2]
SMALL = [
    "backbone.pretraining.steps=4",
    "backbone.width=16",
    "backbone.heads=2",
    "backbone.ffn=16",
    "backbone.encoder_layers=1",
    "backbone.decoder_layers=1",
    "backbone.vocab_size=320",
    "backbone.positions=64",
    "training.eval_every=4",
    "training.save_every=2",
    "training.log_every=2",
    "adaptation.steps=4",
    "adaptation.eval_every=2",
    "adaptation.workers=1",
    "adaptation.samples=1",
    "logging.progress=false",
    "logging.wandb=disabled",
    "data.max_source=40",
    "sampling.tasks_per_batch=3",
    "sampling.rows_per_task=2",
    "tasks=folder",
]


def _launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *arguments],
        cwd=ROOT,
        env={**os.environ, "MOE_TASKS_BIN": str(Path(sys.executable).parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_processes_do_a_whole_run(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks)
    run = tmp_path / "run"
    arguments = [
        *SMALL, "training.steps=8", f"tasks.path={tasks}", f"data.cache_dir={tmp_path / 'cache'}",
        f"run_dir={run}", "~systems.multitask",
    ]  # fmt: skip
    done = _launch("launch/local.sh", "2", "--local_rank=0", *arguments, "engine.zero_stage=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torchrun" in done.stderr.splitlines()[0]
    assert "--local_rank=0" not in done.stderr.splitlines()[0]
    assert done.stdout.count("Results in") == 1
    assert (run / "summary.md").exists()
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["system"] == "moe"] == [2, 4, 6, 8]
    for line in lines:
        if line["system"] == "moe":
            _check_ranks(line["ranks"], rows=2 * 3 * 2, layers=2)
    again = _launch("launch/local.sh", "2", *arguments)
    assert again.returncode == 2
    (_, error) = again.stderr.splitlines()  # the command, and one message
    assert "already holds a run" in error


def _check_ranks(ranks: dict[str, Any], rows: int, layers: int) -> None:
    """What each process did in the steps of one log record."""
    assert sum(ranks["rows"]) == rows
    assert min(ranks["rows"]) > 0
    assert all(tokens > rows for tokens, rows in zip(ranks["tokens"], ranks["rows"], strict=True))
    assert len(ranks["expert_rows"]) == 3
    assert sum(ranks["expert_rows"]) == rows * layers
    assert all(memory > 100 for memory in ranks["memory_mib"])
    assert {"gradients", "reduction", "update", "sum", "agreement"} <= set(ranks["seconds"])
    assert all(len(of) == 2 and min(of) >= 0 for of in ranks["seconds"].values())


def test_a_mistake_of_all_processes_is_one_message(tmp_path: Path) -> None:
    done = _launch("launch/local.sh", "2", "seed=abc", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    (_, error) = done.stderr.splitlines()  # the command, and one message
    assert error.startswith("error: ")
    assert "'seed' is 'abc'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch/local.sh"], "usage: launch/local.sh N"),
        (["launch/local.sh", "two"], "usage: launch/local.sh N"),
        (["launch/local.sh", "2", "--multirun"], "call this script once for each"),
        (["launch/deepspeed.sh", "no-such-file"], "usage: launch/deepspeed.sh HOSTFILE"),
        (["launch/slurm.sh"], "start this with sbatch"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    done = _launch(*arguments, SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_slurm_starts_one_launcher_per_node(tmp_path: Path) -> None:
    for name, body in {"scontrol": "echo node7", "srun": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = _launch(
        "launch/slurm.sh", "seed=3", SLURM_SUBMIT_DIR=str(ROOT), SLURM_JOB_NODELIST="node[7-8]",
        SLURM_JOB_NUM_NODES="2", SLURM_JOB_ID="11", SLURM_GPUS_ON_NODE="4",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in (
        "--nnodes 2", "--nproc-per-node 4", "node7:29500", "engine=deepspeed", "seed=3", "run_dir=",
    ):  # fmt: skip
        assert part in done.stdout
