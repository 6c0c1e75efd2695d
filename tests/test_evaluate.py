"""``python -m moe_tasks.evaluate``: cells and their files, sweeps, and what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.sweep import write_sweep
from moe_tasks import evaluate
from moe_tasks.cli import main
from moe_tasks.errors import UserError
from tests.tasks.prompted_files import write_rows, write_task
from tests.zeroshot_runs import finished_run, rows, wordings, write_prompted

Command = Callable[..., int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``python -m moe_tasks.evaluate`` in this process; gives the exit status."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        evaluate._evaluator.cache_clear()
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        try:
            main(evaluate.job, "evaluate", after_sweep=evaluate.table)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_one_command_evaluates_one_cell(run: Path, command: Command, tmp_path: Path) -> None:
    arguments = [f"run={run}", "task=own", "template=after", "system=moe", "route=nearest"]
    assert command(*arguments, "out=cells", "limit=5") == 0
    (found,) = (tmp_path / "cells").rglob("result.json")
    assert found.parent == tmp_path / "cells" / "run" / "moe" / "nearest" / "own" / "after"
    facts = result(found.parent)
    assert (facts["rows"], facts["task"], facts["template"]) == (5, "own", "after")
    whole = lines(run / "zeroshot" / "moe" / "nearest" / "own" / "after")
    for line, other in zip(lines(found.parent), whole, strict=False):
        assert line["log_probs"] == pytest.approx(other["log_probs"], abs=1e-4)


def test_a_sweep_goes_on_after_a_failure_and_runs_only_that_again(
    run: Path, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = ["--multirun", f"run={run}", "task=fixed,own", "template=before", "out=cells"]
    assert command(*sweep, "system=multitask,moe", "route=auto,inputs") == 2
    errors = capfd.readouterr().err
    assert errors.count("error:") == 2  # moe with route=inputs, on both tasks
    assert "task 'own', template 'before'" in errors
    assert "Traceback" not in errors
    cells = tmp_path / "cells" / "run"
    assert len(list(cells.rglob("result.json"))) == 4
    assert len(list(cells.rglob("error.json"))) == 2
    assert "moe (text)" in (tmp_path / "cells" / "sweep.md").read_text()
    assert not list((tmp_path / "cells").glob(".job*"))
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("result.json")}
    gone = cells / "moe" / "auto" / "own" / "before" / "result.json"
    gone.unlink()  # as if killed before it was written
    assert command(*sweep, "system=multitask,moe", "route=auto") == 0
    for path, then in before.items():
        assert (path.stat().st_mtime_ns == then) == (path != gone)


def test_a_cell_whose_rows_or_wording_changed_is_evaluated_again(
    run: Path, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_prompted(tmp_path / "tasks")
    options = ["tasks=prompted", f"tasks.path={root}", f"tasks.cache_dir={tmp_path / 'cache'}"]
    cells = [f"run={run}", "system=multitask", "task=fixed,own", "template=before", "out=cells"]

    def kept() -> list[str]:
        assert command("--multirun", *cells, *options) == 0
        lines = capfd.readouterr().out.splitlines()
        return [line.split("'")[1] for line in lines if "kept, " in line]

    assert kept() == []
    assert kept() == ["fixed", "own"]
    write_rows(root / "fixed" / "test.jsonl", rows(6, "sock"))
    file = root / "own" / "templates.yaml"
    assert kept() == ["own"]
    file.write_text(file.read_text().replace("say the", "tell the"))
    assert kept() == ["fixed"]


def test_what_is_too_long_is_cut_and_counted(
    run: Path, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fixed = result(run / "zeroshot" / "moe" / "auto" / "fixed" / "after")
    assert fixed["cut"] == {"inputs": 0, "options": 0}
    root = write_prompted(tmp_path / "tasks")
    answer, other = "red " * 30, "blue " * 30
    long = {"text": "belt " * 200, "answer": answer, "choices": [answer, other]}
    short = {"text": "belt", "answer": "red", "choices": ["red", "blue"]}
    write_rows(root / "own" / "test.jsonl", [long, short])
    options = ["tasks=prompted", f"tasks.path={root}", f"tasks.cache_dir={tmp_path / 'cache'}"]
    cell = ["task=own", "template=after", "system=multitask", "out=cells"]
    assert command(f"run={run}", *cell, *options) == 0
    assert "1 inputs cut, 2 options cut" in capfd.readouterr().out
    (folder,) = (path.parent for path in (tmp_path / "cells").rglob("result.json"))
    assert result(folder)["cut"] == {"inputs": 1, "options": 2}
    assert "In 1 cells inputs or options were cut" in write_sweep([tmp_path / "cells"], tmp_path)


@pytest.mark.stress
def test_a_sweep_in_other_processes(
    run: Path, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = "needs the extra sweep"
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason=reason)
    sweep = ["--multirun", f"run={run}", "task=own", "template=before", "system=moe", "out=cells"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert command(*sweep, *launcher, "route=auto,inputs") == 2
    assert "route=inputs needs a system trained with task_vectors=inputs" in capfd.readouterr().err
    text = (tmp_path / "cells" / "sweep.md").read_text()
    assert "moe (text)" in text
    assert "Failed or left out (1)" in text
    assert "system moe, route inputs, task own, template before" in text


def test_another_selection_is_another_cell(run: Path, command: Command, tmp_path: Path) -> None:
    arguments = [f"run={run}", "task=fixed", "template=before", "system=all", "out=cells"]
    assert command(*arguments, "selection=softmax") == 0
    folders = {path.name for path in (tmp_path / "cells" / "run" / "moe").iterdir()}
    assert len(folders) == 1
    assert folders.pop().startswith("auto-softmax-")
    assert (tmp_path / "cells" / "run" / "multitask" / "auto").is_dir()


def test_other_tasks_than_the_runs(run: Path, command: Command, tmp_path: Path) -> None:
    root = tmp_path / "others"
    question = wordings("what colour ?", answer_choices="red ||| blue ||| green")
    write_task(root, "glove", {"test": rows(6, "glove")}, question)
    write_task(root, "cap", {"train": rows(30, "cap")}, question)
    (root / "tasks.yaml").write_text("glove: {role: test}")
    tasks = ["tasks=prompted", f"tasks.path={root}", f"tasks.cache_dir={tmp_path / 'cache'}"]
    assert command(f"run={run}", "system=moe", "out=cells", *tasks) == 0
    assert len(list((tmp_path / "cells").rglob("glove/*/result.json"))) == 2


def test_one_broken_task_leaves_the_others_alone(
    run: Path, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_prompted(tmp_path / "tasks")
    bad = [*rows(3, "tie"), {"text": "tie 3", "answer": "mauve", "n": 0}]
    file = write_rows(root / "fixed" / "test.jsonl", bad)
    options = ["tasks=prompted", f"tasks.path={root}", "tasks.on_bad_row=skip"]
    options += ["tasks.max_bad_share=0.5", f"tasks.cache_dir={tmp_path / 'cache'}"]
    assert command(f"run={run}", "system=multitask", "out=cells", *options) == 2
    errors = capfd.readouterr().err
    assert f"task 'fixed', template 'before', row {file}:4: output 'mauve' is not among" in errors
    assert len(list((tmp_path / "cells").rglob("result.json"))) == 4  # own and open


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=fixd"], "unknown task 'fixd'; did you mean 'fixed'"),
        (["system=meo"], "unknown system 'meo'; did you mean 'moe'"),
        (["route=texts"], "unknown route 'texts'; did you mean 'text'"),
        (["task=fixed", "template=befor"], "no template 'befor'; did you mean 'before'"),
        (["training.steps=3"], "'training.steps' is settled by the run"),
        (["limit=0"], "'limit' is 0"),
        (["selection=softmx"], "no option 'softmx' in group 'selection'"),
        (["batchsize=3"], "unknown key 'batchsize'"),
    ],
)
def test_mistakes_are_one_clear_message(
    run: Path,
    command: Command,
    arguments: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert command(f"run={run}", "out=cells", "system=moe", *arguments) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert errors.count("error:") == 1
    assert "Traceback" not in errors


def test_no_run(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("run=nowhere") == 2
    assert "nowhere holds no run" in capfd.readouterr().err


def test_a_sweep_over_runs_needs_a_folder() -> None:
    evaluate.check(["--multirun", "run=a,b", "out=cells"])
    with pytest.raises(UserError, match="several runs need out=DIR"):
        evaluate.check(["--multirun", "run=a,b", "task=c"])


def test_tasks_in_bigbenchs_format(run: Path, command: Command, tmp_path: Path) -> None:
    scores = {"red": 1, "blue": 0}
    examples = [{"input": f"colour of hat {n} ?", "target_scores": scores} for n in range(5)]
    (tmp_path / "tasks" / "hats").mkdir(parents=True)
    (tmp_path / "tasks" / "hats" / "task.json").write_text(json.dumps({"examples": examples}))
    tasks = ["tasks=bigbench", "tasks.path=tasks", f"tasks.cache_dir={tmp_path / 'cache'}"]
    assert command("--multirun", f"run={run}", "system=multitask,moe", "out=cells", *tasks) == 0
    found = {path.parent.name for path in (tmp_path / "cells").rglob("result.json")}
    assert found == {"asked", "named"}
    assert "moe (text)" in (tmp_path / "cells" / "sweep.md").read_text()
