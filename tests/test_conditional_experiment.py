"""Whole runs of sequence-to-sequence systems with conditional encoders."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis.disabling import Ablation
from moe_tasks.adaptation import Cell
from moe_tasks.cli import conf_dir
from moe_tasks.conditional.seq2seq import ConditionalSeq2Seq, RoutedConditionalSeq2Seq
from moe_tasks.errors import UserError
from moe_tasks.evaluation.unseen_routes import Placer
from moe_tasks.experiment import run
from moe_tasks.exporting.kinds import write
from moe_tasks.grid import RESULTS_FILE
from moe_tasks.model import TaskMoE
from moe_tasks.run_config import RunConfig
from moe_tasks.training import trainer
from moe_tasks.workspace import Workspace
from tests.runs import values, write_tasks

TRAIN = ("colour-a", "colour-b", "size-a", "size-b", "taste-a")


def experiment(tasks: Path, **changes: Any) -> dict[str, Any]:
    """``+experiment=camtl_seq2seq`` at the size of the other small runs."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("config", overrides=["run_dir=run", "+experiment=camtl_seq2seq"])
    whole: Any = OmegaConf.to_container(found, resolve=True)
    assert list(whole["systems"]) == ["direct", "multitask", "moe", "camtl", "camtl_moe"]
    systems = {name: whole["systems"][name] for name in ("camtl", "camtl_moe")}
    small = values(tasks, systems=copy.deepcopy(systems))  # which YAML's anchors share
    small["adaptation"] = {
        **small["adaptation"],
        "samples": 1,
        "learning_rates": [1e-2],
        "steps": 4,
        "eval_every": 2,
    }
    return {**small, **changes}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def finished(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, experiment(tasks), resume=False)
    return folder


def results(folder: Path) -> list[Any]:
    """Scores and losses."""
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    names = ("scores.csv", "train_scores.csv")
    scores = [list(csv.reader((folder / name).open())) for name in names]
    return [scores, [(line["system"], line["step"], line["loss"]) for line in lines]]


def test_systems_train_adapt_and_reload_as_what_they_were(finished: Path) -> None:
    workspace = Workspace.open(finished)
    models = {name: workspace.model(name) for name in ("camtl", "camtl_moe")}
    assert type(models["camtl"]) is ConditionalSeq2Seq
    assert type(models["camtl_moe"]) is RoutedConditionalSeq2Seq
    scores, _ = results(finished)
    assert len(scores[0]) == 1 + 2 * 2 * 2  # systems, tasks, dev and test
    assert len(scores[1]) == 1 + 2 * 5
    points = [json.loads(line) for line in (finished / RESULTS_FILE).read_text().splitlines()]
    assert len(points) == 2 * 2
    assert {point["placed_on"] for point in points} <= set(TRAIN)
    for model in models.values():
        assert isinstance(model, ConditionalSeq2Seq | RoutedConditionalSeq2Seq)
        bias = model.backbone.model.encoder.layers[0].self_attn.task_bias
        assert bias.matrix.any()  # which starts at zero


def test_a_stopped_training_continues_to_the_same_result(
    finished: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = trainer.Trainer._train_step, []

    def stop_in_the_middle(self: trainer.Trainer) -> None:
        calls.append(1)
        if len(calls) in (4 + 5, 4 + 5 + 4 + 5):  # inside camtl, then inside camtl_moe
            raise RuntimeError("power cut")
        step(self)

    monkeypatch.setattr(trainer.Trainer, "_train_step", stop_in_the_middle)
    for attempt in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path / "run", experiment(tasks), resume=attempt > 0)
    run(tmp_path / "run", experiment(tasks), resume=True)
    assert results(tmp_path / "run") == results(finished)


@pytest.mark.parametrize("start", ["best_task", "mean"])
@pytest.mark.parametrize("system", ["camtl", "camtl_moe"])
@pytest.mark.parametrize("changes", [{}, {"learn_route": True}, {"route_from": "vector"}])
def test_unseen_tasks_start_where_the_key_says(
    finished: Path, start: str, system: str, changes: dict[str, Any]
) -> None:
    chosen = Workspace.open(finished).config
    own = {**vars(chosen.adaptation), "condition_from": start, **changes}
    config = type(chosen.adaptation)(**own)
    workspace = Workspace(finished, RunConfig(**{**vars(chosen), "adaptation": config}))
    adapter = workspace.adapter(system)
    model, placed_on = adapter.place(Cell(system, "size-test", workspace.collection.samples[0]))
    by_route = system == "camtl_moe" and "route_from" not in changes
    assert (placed_on in TRAIN) == (start == "best_task" or by_route)
    trained: Any = adapter.model
    expected = trained.start_embedding(placed_on if start == "best_task" else None)
    if system == "camtl_moe" and changes.get("learn_route"):
        assert isinstance(model, TaskMoE)
        found: Any = model.task_embedding.weight[0]  # type: ignore[union-attr]
    else:
        found = model.backbone.model.encoder.one_task.embedding[0]
    assert torch.equal(found, expected)
    assert any(parameter is found._base for parameter in model.parameters())  # it goes on learning
    if start == "best_task" and system == "camtl":
        losses = []
        rows = adapter._rows(Cell(system, "size-test", workspace.collection.samples[0]), "train")
        for task in TRAIN:
            batch = workspace.data.collate(rows)
            ids = torch.full((len(rows),), trained.task_id(task))
            losses.append(trained.loss({**batch, "task_ids": ids}).item())
        assert placed_on == TRAIN[losses.index(min(losses))]


def test_without_examples_the_mean_or_the_nearest_tasks_embedding(finished: Path) -> None:
    workspace = Workspace.open(finished)
    for name in ("camtl", "camtl_moe"):
        model: Any = workspace.model(name)
        placer = Placer(workspace, name, model)
        placer._nearest = lambda text: "taste-a"  # type: ignore[method-assign]
        for task, source, expected, like in (
            ("size-a", "average", "own", "size-a"),
            ("size-test", "average", "average", None),
            ("size-test", "nearest", "nearest", "taste-a"),
        ):
            placed = placer.place(task, "text", [], source)  # type: ignore[arg-type]
            assert placed.source == expected
            encoder: Any = placed.model.model.encoder  # type: ignore[union-attr]
            assert torch.equal(encoder.one_task.embedding[0], model.start_embedding(like))


def test_ablation_answers_as_the_task_itself(finished: Path) -> None:
    workspace = Workspace.open(finished)
    ablation, (_, scores) = Ablation(workspace, "camtl_moe", None), results(finished)[0]
    known = {(row[0], row[1]): row[-1] for row in scores[1:]}
    for task in ("size-a", "taste-a"):
        (place, *_) = ablation.places(None)[task]
        (line,) = ablation.rows(task, [place])
        assert line["base"] == float(known["camtl_moe", task])
    model: Any = ablation.model
    rows = workspace.collection.slice("size-a", "test", workspace.collection.samples[0])
    route, encoders = model.routes()[model.task_id("size-a")], []
    conditioned = model.conditioned
    model.conditioned = lambda plain, like: encoders.append(like) or conditioned(plain, like)
    ablation._answers("size-a", route, rows)
    assert encoders == ["size-a"]


def test_what_cannot_be_is_one_line(finished: Path, tasks: Path, tmp_path: Path) -> None:
    asked = {"run": str(finished), "what": "model", "system": "camtl_moe", "tasks": None}
    for task in ("size-a", "all"):
        keys = {**asked, "task": task, "from_crosstaskmoe": None, "from_camtl": None}
        with pytest.raises(UserError, match="no place in a plain BartForConditionalGeneration"):
            write(tmp_path / "out", keys)
        assert not (tmp_path / "out").exists()
    for system, message in (
        ({"conditional": {"name": "base", "max_length": 16}}, "fresh_top_layer' changes the last"),
        ({"conditional": {"name": "large"}}, "width 16 is no multiple of 'max_length' 128"),
        ({"freeze_layers": "lower_half"}, "'freeze_layers' is for encoders with heads"),
    ):
        systems = {"multitask": {"model": "dense"}, "wrong": {"model": "dense", **system}}
        with pytest.raises(UserError, match=f"systems.wrong: .*{message}"):
            run(tmp_path / message[:5], experiment(tasks, systems=systems), resume=False)
        assert not (tmp_path / message[:5] / "checkpoints" / "multitask").exists()
