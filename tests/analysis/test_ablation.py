"""Ablation of a small real run: values, next-best experts, restart, processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis import load_run
from analysis.ablation import ablate, main
from analysis.disabling import Ablation, Group, Place
from analysis.report.groups import group_drops
from analysis.report.statistics import gather
from analysis.runs import GROUP_COLUMNS, read_ablation
from moe_tasks import experiment
from moe_tasks.errors import UserError
from moe_tasks.evaluation import metrics
from moe_tasks.evaluation.generation import predict
from moe_tasks.workspace import Workspace
from tests.runs import values, write_tasks


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "tasks").mkdir()
    tasks = write_tasks(folder / "tasks")
    systems: dict[str, Any] = {
        "multitask": {"model": "dense"},
        "moe": {},
        "soft": {"selection": {"name": "softmax"}},
    }
    changes: dict[str, Any] = {"systems": systems}
    experiment.run(folder / "run", values(tasks, **changes), resume=False)
    return folder / "run"


@pytest.fixture(scope="module")
def done(run: Path) -> pd.DataFrame:
    file = ablate(run, run / "ablation", workers=1)
    assert file == run / "ablation" / "moe.jsonl"
    return load_run(run).ablation


def test_every_task_loses_the_expert_of_each_layer(run: Path, done: pd.DataFrame) -> None:
    routes = load_run(run).routes["moe"]
    last = routes[(routes["step"] == routes["step"].max()) & (routes["weight"] == 1)]
    columns = ["task", "stack", "layer", "expert"]
    expected = last[columns].sort_values(columns).to_numpy().tolist()
    assert done[columns].sort_values(columns).to_numpy().tolist() == expected
    assert len(done) == 5 * 2


def test_base_is_what_the_run_scored(run: Path, done: pd.DataFrame) -> None:
    scores = load_run(run).train_scores
    scored = scores[scores["system"] == "moe"].set_index("task")["score"]
    for row in done.to_dict("records"):
        assert row["base"] == pytest.approx(scored[row["task"]])
        assert row["drop"] == pytest.approx(row["base"] - row["score"])
        assert row["low"] <= row["drop"] <= row["high"]


def test_scores_are_those_of_the_changed_route(run: Path, done: pd.DataFrame) -> None:
    """A slow oracle: the next best expert by the router's logits, by hand."""
    workspace = Workspace.open(run)
    ablation = Ablation(workspace, "moe", None)
    model: Any = workspace.model("moe")
    data = workspace.data
    for row in done.to_dict("records"):
        task = model.task_id(row["task"])
        layer = model.layer_names.index(f"{row['stack']}.{row['layer']}")
        route, logits = model.routes()[task], model.logits()[layer, task].clone()
        logits[row["expert"]] = -torch.inf
        route[layer] = torch.eye(3)[logits.argmax()]
        place = Place(layer, row["stack"], row["layer"], row["expert"])
        assert torch.equal(ablation.without(task, place), route)
        rows = data.collection.slice(row["task"], "test", data.collection.samples[0])
        answers = predict(
            model.squeeze_route(route), data.tokenizer, data.tokens.sources(rows),
            workspace.config.generation, data.config.max_target,
        )  # fmt: skip
        assert row["score"] == metrics.score("ACC", answers, data.references(rows))


def test_mixtures_share_the_weight_that_is_missing(run: Path) -> None:
    ablation = Ablation(Workspace.open(run), "soft", None)
    before = ablation.routes[2]
    after = ablation.without(2, Place(1, "decoder", 0, 0))
    assert torch.equal(before[0], after[0])
    assert after[1, 0] == 0
    assert torch.allclose(after[1, 1:], before[1, 1:] / before[1, 1:].sum())
    assert sum(map(len, ablation.places(None).values())) == 5 * 2 * 3
    assert sum(map(len, ablation.places(2).values())) == 2 * 2 * 3


def test_one_expert_of_every_layer(run: Path, tmp_path: Path) -> None:
    file = ablate(run, tmp_path, workers=1, groups=True, num_random=4)
    assert file == tmp_path / "groups" / "moe.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ablation = Ablation(Workspace.open(run), "moe", None)
    model: Any = ablation.model
    groups = {row["group"]: tuple(row["experts"]) for row in rows}
    named = {f"expert {e} of every layer": (e, e) for e in range(3)}
    assert named.items() <= groups.items()
    assert len(set(groups.values())) == len(groups) == 3 + 4
    hard = ablation.routes.argmax(-1)
    for group, experts in groups.items():
        lost = (hard == torch.tensor(experts)).sum(1).tolist()
        found = {row["task"]: row for row in rows if row["group"] == group}
        assert {t: row["weight"] for t, row in found.items()} == {
            task: n for task, n in zip(model.task_names, lost, strict=True) if n
        }
        for task, row in found.items():
            number = model.task_id(task)
            one_by_one = ablation.routes[number].clone()
            for index, expert in enumerate(experts):
                if hard[number, index] == expert:
                    place = Place(index, "", 0, expert)
                    one_by_one[index] = ablation.without(number, place)[index]
            assert torch.equal(ablation.without(number, Group(group, experts)), one_by_one)
            assert row["drop"] == pytest.approx(row["base"] - row["score"])
    ablate(run, tmp_path, workers=1, groups=True, num_random=4)
    assert len(file.read_text().splitlines()) == len(rows)
    read = read_ablation(tmp_path / "groups", GROUP_COLUMNS)
    assert {row["group"] for row in group_drops(read)} <= set(named)


def test_it_goes_on_where_it_was_stopped(
    run: Path, done: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (run / "ablation" / "moe.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    stale = json.dumps({**json.loads(lines[0]), "checkpoint": "last-1", "score": 9.0}) + "\n"
    (tmp_path / "moe.jsonl").write_text("".join([stale, *lines[:7]]) + lines[7][:20])
    evaluated: list[str] = []
    rows = Ablation.rows

    def counted(self: Ablation, task: str, places: Any) -> Any:
        evaluated.append(task)
        return rows(self, task, places)

    monkeypatch.setattr(Ablation, "rows", counted)
    ablate(run, tmp_path, workers=1)
    assert 1 <= len(evaluated) <= 3
    assert sorted((tmp_path / "moe.jsonl").read_text().splitlines()) == sorted(whole.splitlines())
    evaluated.clear()
    ablate(run, tmp_path, workers=1)
    assert not evaluated


def test_processes_give_the_same(run: Path, done: pd.DataFrame, tmp_path: Path) -> None:
    file = ablate(run, tmp_path, workers=2)
    whole = (run / "ablation" / "moe.jsonl").read_text().splitlines()
    assert sorted(file.read_text().splitlines()) == sorted(whole)


def test_the_report_reads_it(run: Path, done: pd.DataFrame) -> None:
    experts = gather([run], num_permutations=9).statistics["routes"]["run"]["ablation"]["experts"]
    assert sum(e["num_tasks"] for e in experts) == 10
    assert [e["stack"] for e in experts] == sorted((e["stack"] for e in experts), reverse=True)


def test_mistakes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="'mo' is no system with experts; did you mean 'moe'"):
        ablate(run, tmp_path, system="mo")
    assert main([str(run), "--system", "multitask"]) == 2
    assert "no system with experts" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main([str(run), "--out", str(tmp_path), "--rows", "3", "--workers", "1"]) == 0
    assert json.loads((tmp_path / "moe.jsonl").read_text().splitlines()[0])["num_rows"] == 3
