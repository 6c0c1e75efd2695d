"""Models written for others: plain ones load without this package and answer the same."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from moe_tasks import TaskMoE
from moe_tasks.errors import UserError
from moe_tasks.experiment import run
from moe_tasks.exporting.pruning import drop_unused_experts
from moe_tasks.workspace import Workspace
from tests.models import SEQ2SEQ, batch, routed
from tests.runs import values, write_tasks

Command = Callable[..., int]

ROOT = Path(__file__).resolve().parents[2]
SOFT = {"name": "softmax", "mode": "mix"}
PLAIN = """
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(["apple taste", "stone"], return_tensors="pt", padding=True)
print(model.generate(**inputs, max_new_tokens=4).tolist())
assert not any(name.startswith("moe_tasks") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exporting")
    (folder / "tasks").mkdir()
    systems = {"multitask": {"model": "dense"}, "moe": {}, "soft": {"selection": SOFT}}
    adaptation = {"samples": 1, "learning_rates": [1e-2], "steps": 2, "workers": 1}
    run(
        folder / "run",
        values(write_tasks(folder / "tasks"), systems=systems, adaptation=adaptation),
        resume=False,
    )
    return folder


@pytest.fixture
def export(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``python -m moe_tasks.export`` in this process; gives the exit status."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        monkeypatch.delitem(sys.modules, "moe_tasks.export", raising=False)
        monkeypatch.setattr(sys, "argv", ["export.py", f"run={folder}/run", *arguments])
        try:
            runpy.run_module("moe_tasks.export", run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def test_a_tasks_model_loads_without_this_package(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    command = [sys.executable, "-m", "moe_tasks.export", f"run={folder}/run", "task=taste-a"]
    assert subprocess.run([*command, f"out={out}"], cwd=ROOT).returncode == 0
    isolated = [sys.executable, "-P", "-c", PLAIN, str(out)]
    tokens = subprocess.run(isolated, cwd=tmp_path, capture_output=True, text=True)
    assert tokens.returncode == 0, tokens.stderr
    workspace = Workspace.open(folder / "run")
    model = workspace.model("moe")
    assert isinstance(model, TaskMoE)
    tokenizer = workspace.data.tokenizer
    inputs = tokenizer(["apple taste", "stone"], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    ids = torch.full((2,), model.task_id("taste-a"))
    ours = model.generate(**inputs, task_ids=ids, max_new_tokens=4)
    assert tokens.stdout.strip() == str(ours.tolist())
    assert (out / "generation_config.json").exists()
    card = (out / "README.md").read_text()
    for word in (
        "task-level-moe",
        "`taste-a`",
        "metric ACC",
        "encoder.0",
        "ACC on the task's test",
    ):
        assert word in card


def test_all_tasks_share_the_files_of_a_route(
    folder: Path, export: Command, tmp_path: Path
) -> None:
    for system, distinct in (("multitask", 1), ("moe", None)):
        out = tmp_path / system
        assert export("tasks=all", f"system={system}", f"out={out}") == 0
        model = Workspace.open(folder / "run").model(system)
        assert {path.name for path in out.iterdir()} == set(model.task_names)
        files = {path.stat().st_ino for path in out.glob("*/model.safetensors")}
        if isinstance(model, TaskMoE):
            distinct = len(model.routes().flatten(1).unique(dim=0))
        assert len(files) == distinct
        assert len({(out / t / "README.md").read_text() for t in model.task_names}) == 5
        task = model.task_names[-1]
        again = AutoModelForSeq2SeqLM.from_pretrained(out / task)
        for name, p in model.squeeze(task).named_parameters():
            assert torch.equal(p, again.get_parameter(name)), name


def test_a_routed_model_without_unused_experts(
    folder: Path, export: Command, tmp_path: Path
) -> None:
    assert export("what=routed", f"out={tmp_path / 'pruned'}") == 0
    whole = Workspace.open(folder / "run").model("moe")
    pruned = TaskMoE.load(tmp_path / "pruned")
    for task in whole.task_names:
        mine, theirs = (dict(m.squeeze(task).named_parameters()) for m in (pruned, whole))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("selection", ["gumbel_st", "random_task_2"])
def test_dropping_unused_experts_changes_no_output(
    family: str, selection: str, tmp_path: Path
) -> None:
    model = routed(family, num_experts=5)
    if selection == "random_task_2":
        routes = torch.zeros(4, 4, 5)
        routes[..., [1, 3]] = 0.5
        routes[0, 0] = torch.tensor([0, 0, 0, 0, 1.0])
        model.fix_routes(routes)
    with torch.no_grad():
        before = model(**batch()).logits
    size = sum(p.numel() for p in model.parameters())
    drop_unused_experts(model)
    assert sum(p.numel() for p in model.parameters()) < size
    with torch.no_grad():
        assert torch.equal(model(**batch()).logits, before)
    model.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(TaskMoE.load(tmp_path)(**batch()).logits, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=taste", "out=other"], "did you mean 'taste-a'"),
        (["task=taste-a", "system=mo", "out=other"], "did you mean 'moe'"),
        (["out=other"], "missing key 'task'"),
        (["what=routed", "system=multitask", "out=other"], "has no experts"),
    ],
)
def test_mistakes(
    export: Command, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("error:") == 1


def test_a_card_says_that_a_mixture_was_merged(folder: Path, tmp_path: Path) -> None:
    from moe_tasks.exporting.plain import write_task

    write_task(Workspace.open(folder / "run"), "soft", "taste-a", tmp_path / "soft")
    assert "merged by the same weights" in (tmp_path / "soft" / "README.md").read_text()
    with pytest.raises(UserError, match="not empty"):
        write_task(Workspace.open(folder / "run"), "soft", "taste-a", tmp_path / "soft")
