"""``python -m moe_tasks.represent`` and training with the file that it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from moe_tasks.cli import main
from moe_tasks.errors import UserError
from moe_tasks.experiment import run
from moe_tasks.represent import job
from moe_tasks.representations import computed
from moe_tasks.representations.vector_file import read_vectors
from moe_tasks.workspace import Workspace
from tests.runs import values, write_tasks

TRAINING = {"colour-a", "colour-b", "size-a", "size-b", "taste-a"}
UNSEEN = {"colour-dev", "size-test", "taste-test"}
SMALL = {
    "name": "fisher",
    "rank": 1,
    "examples": 8,
    "finetuning": {"steps": 3, "learning_rate": 1e-3},
}
SYSTEMS = {"moe": {}}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def represent(folder: Path, tasks: Path, out: Path, **changes: object) -> None:
    own = {"out": str(out), "run": None, "fitted": None, "resume": "auto"}
    own |= {key: changes.pop(key) for key in list(changes) if key in own}
    job(folder, {**values(tasks, task_vectors=SMALL, **changes), **own})


@pytest.fixture(scope="module")
def made(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "vectors.safetensors"
    represent(out.parent / "parts", tasks, out)
    return out


def test_the_file_holds_every_task_and_sample(made: Path, tasks: Path) -> None:
    file = read_vectors(made)
    samples = {name.split("@")[1] for name in file.vectors if "@" in name}
    assert len(samples) > 1
    assert set(file.vectors) == TRAINING | {f"{t}@{s}" for t in UNSEEN for s in samples}
    assert {len(vector) for vector in file.vectors.values()} == {len(TRAINING) - 1}
    assert file.facts["kind"] == "fisher"
    assert file.facts["settings"]["rank"] == 1
    assert file.facts["collection"]["path"] == str(tasks)
    assert set(file.facts["training_tasks"]) == TRAINING


def adaptation(tasks: Path) -> dict:
    small = {"samples": 1, "learning_rates": [1e-2], "steps": 2, "eval_every": 2}
    return {**values(tasks)["adaptation"], **small, "route_from": "vector"}


def test_training_with_the_file_is_training_with_the_representation(
    made: Path, tasks: Path, tmp_path: Path
) -> None:
    """Also: initial weights made twice from one seed are the same, or the file were refused."""
    shared = dict(systems=SYSTEMS, adaptation=adaptation(tasks))
    run(tmp_path / "own", values(tasks, task_vectors=SMALL, **shared), resume=False)
    by_file = {"name": "file", "path": str(made)}
    run(tmp_path / "file", values(tasks, task_vectors=by_file, **shared), resume=False)
    lines = [(tmp_path / name / "scores.csv").read_bytes() for name in ("own", "file")]
    assert lines[0] == lines[1]
    models = [Workspace.open(tmp_path / name).model("moe") for name in ("own", "file")]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    kept = list((tmp_path / "own" / "task_vectors").iterdir())
    assert len(kept) == len(TRAINING) + len(UNSEEN)  # one sample each, nothing else


def test_an_existing_run_gives_the_same_vectors(made: Path, tasks: Path, tmp_path: Path) -> None:
    parts = made.parent / "parts"
    out = tmp_path / "again.safetensors"
    represent(tmp_path / "parts", tasks / "ignored", out, run=str(parts))
    one, other = read_vectors(made).vectors, read_vectors(out).vectors
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "parts" / "checkpoints").exists()


def test_a_backbone_from_the_initial_folder_fits_the_file(
    made: Path, tasks: Path, tmp_path: Path
) -> None:
    initial = made.parent / "parts" / "checkpoints" / "initial"
    backbone = {"name": "pretrained", "path": str(initial)}
    file = {"name": "file", "path": str(made)}
    settings = values(
        tasks, backbone=backbone, task_vectors=file, systems=SYSTEMS, adaptation=adaptation(tasks)
    )
    run(tmp_path / "run", settings, resume=False)
    with pytest.raises(UserError, match="made with another backbone"):
        run(tmp_path / "other", values(tasks, seed=1, task_vectors=file), resume=False)


def test_a_stopped_command_goes_on(
    made: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = computed.ComputedVectors._compute, []

    def stop_in_the_middle(self: computed.ComputedVectors, cell: tuple) -> torch.Tensor:
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(cell)
        return compute(self, cell)

    monkeypatch.setattr(computed.ComputedVectors, "_compute", stop_in_the_middle)
    out = tmp_path / "vectors.safetensors"
    with pytest.raises(KeyboardInterrupt):
        represent(tmp_path / "parts", tasks, out)
    assert not out.exists()
    calls_before = list(calls)
    calls[:] = []
    monkeypatch.setattr(computed.ComputedVectors, "_compute", _counting(compute, calls))
    represent(tmp_path / "parts", tasks, out)
    assert not set(calls) & set(calls_before)
    one, other = read_vectors(made).vectors, read_vectors(out).vectors
    assert len(calls) + len(calls_before) == len(one)
    assert all(torch.equal(one[name], other[name]) for name in one)


def _counting(compute, calls: list):
    def counted(self, cell):
        calls.append(cell)
        return compute(self, cell)

    return counted


def test_an_earlier_files_transformation(made: Path, tasks: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "placed.safetensors", str(made.parent / "parts")
    represent(tmp_path / "parts", tasks, out, run=parts, fitted=str(made))
    one, other = read_vectors(made).vectors, read_vectors(out).vectors
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    text = {"name": "text", "examples": 4}
    with pytest.raises(UserError, match=r"kind was 'FisherVectors' and is 'TextVectors'"):
        job(
            tmp_path / "parts",
            {
                **values(tasks, task_vectors=text), "out": str(tmp_path / "no"), "run": parts,
                "fitted": str(made), "resume": "auto",
            },
        )  # fmt: skip
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing key 'out'"),
        (["out=taken"], "taken exists; choose another file"),
        (["out=a", "run=nowhere"], "nowhere holds no run"),
        (["out=a", "run=run", "task_vectors=learned"], "task_vectors=learned computes nothing"),
        (["out=a", "run=run", "task_vectors=fishr"], "did you mean 'fisher'"),
        (["out=a", "run=run", "fitted=none"], "no file none"),
        (["out=a", "task_vectors=sentence"], "task_vectors.path"),
        (["out=a", "task_vectors=fisher", "task_vectors.finetuning.steps=-1"], "'steps'"),
    ],
)
def test_mistakes_are_one_clear_message(
    arguments: list[str],
    message: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taken").write_text("")
    (tmp_path / "run").symlink_to(made.parent / "parts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["represent.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        main(job, "represent")
    errors = capfd.readouterr().err
    assert stop.value.code == 2, errors
    assert message in errors
    assert errors.count("error:") == 1
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} <= {"taken", "run", ".cache"}
