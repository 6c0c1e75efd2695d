"""Whole runs: every file is there, stopped ones continue to the same result."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from moe_tasks import TaskMoE
from moe_tasks import grid as grid_module
from moe_tasks.adaptation import Adapter
from moe_tasks.errors import UserError
from moe_tasks.evaluation.gain import relative_gain
from moe_tasks.experiment import run
from moe_tasks.run_config import RunConfig
from moe_tasks.training import trainer
from moe_tasks.training.checkpoint import CheckpointStore
from tests.runs import values, write_tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def finished(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    chosen = values(tasks)
    chosen["logging"]["report"] = True
    run(folder, chosen, resume=False)
    return folder


def read_scores(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "scores.csv").open()))


def losses(folder: Path) -> list[tuple[str, int, float]]:
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [(line["system"], line["step"], line["loss"]) for line in lines]


def test_a_run_leaves_every_file(finished: Path) -> None:
    names = ["config.yaml", "train.jsonl", "routes.png", "scores.csv", "gain.json", "summary.md"]
    names += ["routes.parquet", "tasks.json", "report/report.html", "report/statistics.json"]
    assert all((finished / name).stat().st_size > 0 for name in names)
    scores = read_scores(finished)
    assert list(scores[0]) == ["system", "task", "category", "sample", "split", "metric", "score"]
    cells = {(s["system"], s["task"], s["sample"], s["split"]) for s in scores}
    assert len(cells) == len(scores) == 3 * 2 * 2 * 2  # systems, tasks, samples, dev and test
    assert all(0 <= float(s["score"]) <= 1 for s in scores)
    assert len({s["score"] for s in scores}) > 1  # or the comparisons below would be cheap


def test_gains_follow_from_the_scores(finished: Path) -> None:
    gains = json.loads((finished / "gain.json").read_text())
    assert {"moe_over_multitask", "moe_over_direct", "multitask_over_direct"} <= set(gains)
    again = relative_gain(read_scores(finished), "moe", "multitask")
    assert gains["moe_over_multitask"]["average"] == again.average
    told = {*gains["moe_over_multitask"]["per_task"], *gains["moe_over_multitask"]["left_out"]}
    assert told == {"size-test", "taste-test"}  # no task is lost


def test_route_table(finished: Path) -> None:
    table = pq.read_table(finished / "routes.parquet").to_pandas()
    assert list(table.columns) == [
        "step", "task", "category", "subcategory", "stack", "layer", "expert", "weight",
    ]  # fmt: skip
    assert sorted(table["step"].unique()) == [0, 4, 8]
    assert len(table) == 3 * 5 * 2 * 3  # snapshots, tasks, layers, experts
    sums = table.groupby(["step", "task", "stack", "layer"])["weight"].sum()
    assert sums.between(1 - 1e-6, 1 + 1e-6).all()
    model = TaskMoE.load(finished / "checkpoints" / "moe" / "step-000008")
    last = table[table["step"] == 8].set_index("task")
    for task, route in zip(model.task_names, model.routes(), strict=True):
        assert last.loc[task, "weight"].tolist() == route.flatten().tolist()


def test_a_finished_run_is_not_overwritten_but_can_be_shown_again(
    finished: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        run(finished, values(tasks), resume=False)
    before = (finished / "scores.csv").read_bytes()
    run(finished, values(tasks), resume=True)
    assert (finished / "scores.csv").read_bytes() == before
    assert "moe over multitask" in capsys.readouterr().out


def test_another_configuration_is_refused_by_key(finished: Path, tasks: Path) -> None:
    changed = values(tasks, training={**values(tasks)["training"], "steps": 9})
    with pytest.raises(UserError, match=r"training\.steps was 8 and is 9"):
        run(finished, changed, resume=True)


def test_a_run_from_before_a_key_existed_had_its_default(finished: Path, tasks: Path) -> None:
    file = finished / "config.yaml"
    text, named = file.read_text(), values(tasks)
    try:
        named["training"] = {**named["training"], "label_smoothing": 0.0}
        run(finished, named, resume=True)
        named["training"]["label_smoothing"] = 0.1
        with pytest.raises(UserError, match=r"label_smoothing was 0\.0 and is 0\.1"):
            run(finished, named, resume=True)
    finally:
        file.write_text(text)


def test_a_stopped_training_continues_to_the_same_result(
    finished: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = trainer.Trainer._train_step
    calls = {"count": 0}

    def stop_in_the_middle(self: trainer.Trainer) -> None:
        calls["count"] += 1
        if calls["count"] == 4 + 8 + 5:  # pretraining, multitask, then inside moe
            raise RuntimeError("power cut")
        step(self)

    monkeypatch.setattr(trainer.Trainer, "_train_step", stop_in_the_middle)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", values(tasks), resume=False)
    assert not (tmp_path / "run" / "scores.csv").exists()
    run(tmp_path / "run", values(tasks), resume=True)
    assert losses(tmp_path / "run") == losses(finished)
    assert read_scores(tmp_path / "run") == read_scores(finished)
    tables = [pq.read_table(f / "routes.parquet") for f in (tmp_path / "run", finished)]
    assert tables[0].equals(tables[1])


def test_a_stopped_grid_continues_where_it_was(
    finished: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Adapter.run
    done: list[tuple] = []

    def stop_in_the_middle(self: Adapter, *arguments):
        if len(done) == 7:
            raise RuntimeError("power cut")
        done.append(arguments)
        return point(self, *arguments)

    monkeypatch.setattr(Adapter, "run", stop_in_the_middle)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", values(tasks), resume=False)
    lines = (tmp_path / "run" / grid_module.RESULTS_FILE).read_text()
    kept = lines.count("\n")
    assert 0 < kept <= 7
    # a line that a kill cut short is done again
    (tmp_path / "run" / grid_module.RESULTS_FILE).write_text(lines + lines[:30])
    again: list[tuple] = []

    def count(self: Adapter, *arguments):
        again.append(arguments)
        return point(self, *arguments)

    monkeypatch.setattr(Adapter, "run", count)
    run(tmp_path / "run", values(tasks), resume=True)
    assert len(again) == 3 * 2 * 2 * 2 - kept  # systems, tasks, samples, points
    assert read_scores(tmp_path / "run") == read_scores(finished)


def test_workers_give_the_same_scores(finished: Path, tasks: Path, tmp_path: Path) -> None:
    adaptation = {**values(tasks)["adaptation"], "workers": 2}
    run(tmp_path / "run", values(tasks, adaptation=adaptation), resume=False)
    assert read_scores(tmp_path / "run") == read_scores(finished)


@pytest.mark.parametrize(
    "changes",
    [
        {"route_from": "vector"},
        {"learn_route": True},
        {"route_from": "vector", "learn_route": True},
    ],
)
def test_ways_to_place_an_unseen_task(changes: dict, tasks: Path, tmp_path: Path) -> None:
    adaptation = {**values(tasks)["adaptation"], "samples": 1, "learning_rates": [1e-2], **changes}
    systems = {"multitask": {"model": "dense"}, "moe": {}}
    run(tmp_path / "run", values(tasks, adaptation=adaptation, systems=systems), resume=False)
    lines = (tmp_path / "run" / grid_module.RESULTS_FILE).read_text().splitlines()
    points = [json.loads(line) for line in lines]
    placed = {p["placed_on"] for p in points if p["system"] == "moe"}
    if changes.get("route_from") == "vector":
        assert placed == {""}
    else:
        assert placed <= {"colour-a", "colour-b", "size-a", "size-b", "taste-a"}


def test_a_pretrained_folder_as_backbone(finished: Path, tasks: Path, tmp_path: Path) -> None:
    backbone = {"name": "pretrained", "path": str(finished / "checkpoints" / "initial")}
    run(tmp_path / "run", values(tasks, backbone=backbone), resume=False)
    assert read_scores(tmp_path / "run") == read_scores(finished)  # the same initial weights
    nowhere = values(tasks, backbone={"name": "pretrained", "path": str(tmp_path / "none")})
    with pytest.raises(UserError, match="none"):
        run(tmp_path / "other", nowhere, resume=False)


def test_t5_runs_too(tasks: Path, tmp_path: Path) -> None:
    backbone = {**values(tasks)["backbone"], "family": "t5"}
    adaptation = {**values(tasks)["adaptation"], "samples": 1, "learning_rates": [1e-2]}
    run(tmp_path / "run", values(tasks, backbone=backbone, adaptation=adaptation), resume=False)
    assert len(read_scores(tmp_path / "run")) == 3 * 2 * 2


def test_controls(tasks: Path, tmp_path: Path) -> None:
    systems = {
        "multitask": {"model": "dense"},
        "moe_random": {"routes": "random"},
        "moe_untrained": {"routes": "untrained"},
        "moe_category": {"routes": "category"},
        "moe_average": {"routes": "average"},
        "multitask_wide": {"model": "dense", "width": 3},
        "moe_2x": {"length": 2.0},
    }
    adaptation = {**values(tasks)["adaptation"], "samples": 1, "learning_rates": [1e-2]}
    run(tmp_path / "run", values(tasks, systems=systems, adaptation=adaptation), resume=False)
    routes = {
        name: pq.read_table(tmp_path / "run" / "routes" / f"{name}.parquet").to_pandas()
        for name in systems
        if systems[name].get("model") != "dense"
    }
    for name in ("moe_random", "moe_untrained", "moe_category", "moe_average"):
        first, last = (
            routes[name][routes[name]["step"] == step]["weight"].tolist() for step in (0, 8)
        )
        assert first == last, name  # fixed routes stay
    assert routes["moe_average"]["weight"].between(0.33333, 0.33334).all()
    by_category = routes["moe_category"].groupby(["category", "step", "stack", "layer", "expert"])
    assert (by_category["weight"].nunique() == 1).all()
    assert routes["moe_2x"]["step"].max() == 16
    wide = sum(p.numel() for p in _parameters(tmp_path / "run" / "checkpoints" / "initial-x3"))
    plain = sum(p.numel() for p in _parameters(tmp_path / "run" / "checkpoints" / "initial"))
    layers = 16 * 16 * 4 + 2 * 16 * 16 + 2 * 16 * 16 * 4 + 2 * 16 * 16  # weights of both layers
    assert wide - plain == pytest.approx(2 * layers, rel=0.05)


TWO_STAGES = {
    "multitask": {"model": "dense"},
    "moe": {"router": {"name": "lstm"}},
    "twostage": {
        "routes_from": "moe",
        "selection": {
            "name": "softmax",
            "mode": "mix",
            "temperature_schedule": {"start": 300.0, "end": 1.0, "rate": None},
        },
    },
}


def test_two_stages(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adaptation = {**values(tasks)["adaptation"], "samples": 1, "learning_rates": [1e-2]}
    config = values(tasks, systems=TWO_STAGES, adaptation=adaptation)
    run(tmp_path / "whole", config, resume=False)
    folder = tmp_path / "whole" / "checkpoints"
    first, second = (TaskMoE.load(folder / name / "step-000008") for name in ("moe", "twostage"))
    assert second.spec.router == "lstm"
    assert torch.equal(second.logits(), first.logits())  # router and task vectors are frozen
    assert second.selection.temperature(0) == 300
    assert second.selection.temperature(8) == pytest.approx(1.0)
    table = pq.read_table(tmp_path / "whole" / "routes" / "twostage.parquet").to_pandas()
    start = table[table["step"] == 0]["weight"]
    assert start.between(0.32, 0.35).all()  # average routing turns into the learned routes
    fresh = TaskMoE.from_backbone(
        str(folder / "initial"), first.task_names, noise=0.0, router="lstm"
    )
    moved = (second.expert_distance().item(), first.expert_distance().item())
    assert fresh.expert_distance().item() == 0 < min(moved)

    def cut(store, *arguments, **options):  # a kill in the second stage's first save
        if store.folder.name == "twostage":
            raise RuntimeError("power cut")
        return save(store, *arguments, **options)

    save = CheckpointStore.save
    monkeypatch.setattr(CheckpointStore, "save", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", config, resume=False)
    monkeypatch.undo()
    run(tmp_path / "cut", config, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert read_scores(tmp_path / "cut") == read_scores(tmp_path / "whole")


def test_systems_may_differ_in_their_parts(tasks: Path, tmp_path: Path) -> None:
    systems = {
        "multitask": {"model": "dense"},
        "gru": {"router": {"name": "gru", "num_experts": 2}},
        "row": {"selection": {"name": "random_row"}},
        "pair": {"selection": {"name": "random_task", "n": 2}},
        "learned": {"task_vectors": {"name": "learned", "dim": 8}},
        "soft": {"selection": {"name": "gumbel", "noise": "row", "exploration": 0.2}},
    }
    adaptation = {**values(tasks)["adaptation"], "samples": 1, "learning_rates": [1e-2]}
    run(tmp_path / "run", values(tasks, systems=systems, adaptation=adaptation), resume=False)
    models = {
        name: TaskMoE.load(tmp_path / "run" / "checkpoints" / name / "step-000008")
        for name in systems
        if name != "multitask"
    }
    assert models["gru"].spec.num_experts == 2
    assert models["learned"].task_vectors.shape == (5, 8)
    assert models["row"].routes().sum((0, 1)).max() == 5  # one route for all when evaluating
    assert set(models["pair"].routes().unique().tolist()) == {0.0, 0.5}
    assert models["soft"].selection.mode == "merge"
    assert {s["system"] for s in read_scores(tmp_path / "run")} == set(systems)


def test_vectors_that_cannot_be_had_show_before_the_first_training(
    tasks: Path, tmp_path: Path
) -> None:
    systems = {
        "multitask": {"model": "dense"},
        "moe": {"task_vectors": {"name": "file", "path": str(tmp_path / "none.safetensors")}},
    }
    with pytest.raises(UserError, match=r"no file .*none\.safetensors"):
        run(tmp_path / "run", values(tasks, systems=systems), resume=False)
    assert not (tmp_path / "run" / "checkpoints" / "multitask").exists()


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ({"b": {"routes_from": "moe"}, "moe": {}}, r"systems\.b\.routes_from.*named before it"),
        ({"moe": {}, "b": {"routes_from": "mo"}}, "did you mean 'moe'"),
        ({"b": {"model": "dense", "router": {"name": "gru"}}}, "'router' is for systems with"),
        ({"b": {"router": {"name": "grru"}}}, r"systems\.b: unknown router 'grru'"),
        ({"b": {"router": {"num_experts": 0}}}, r"systems\.b: router: 'num_experts' is 0"),
        ({"b": {"selection": {"name": "random_task", "n": 4}}}, r"systems\.b.*'selection\.n' is 4"),
        ({"b": {"selection": {"temperature_schedule": {"end": 0.0}}}}, "'end' is 0.0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(systems: dict, message: str, tasks: Path) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig.parse(values(tasks, systems=systems))


def _parameters(folder: Path):
    from moe_tasks.backbones import load_dense

    return load_dense(folder).parameters()
