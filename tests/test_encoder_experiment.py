"""Whole runs of encoders with heads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_tasks.conditional.model import CAMTL
from moe_tasks.conditional.routed import RoutedCAMTL
from moe_tasks.errors import UserError
from moe_tasks.evaluation.heads import answers, scored_answers
from moe_tasks.experiment import run
from moe_tasks.exporting.kinds import write
from moe_tasks.training import trainer
from moe_tasks.training.checkpoint import CheckpointStore
from moe_tasks.workspace import Workspace
from tests.encoder_runs import values, write_encoder, write_glue
from tests.runs import values as tiny_values
from tests.tasks.glue_tables import stand_in
from tests.tasks.superglue_files import LINES
from tests.tasks.superglue_files import write as write_superglue

NO_IMPORT = {"from_crosstaskmoe": None, "from_camtl": None}
CONDITIONAL = {"name": "base", "max_length": 8}
SYSTEMS: dict[str, dict[str, Any]] = {
    "multitask": {"model": "dense"},
    "camtl": {"model": "dense", "conditional": CONDITIONAL, "freeze_layers": "lower_half"},
    "unsure": {
        "model": "dense",
        "conditional": CONDITIONAL,
        "length": 0.5,
        "sampling": {"name": "mt_uncertainty", "rows_per_task": 6, "rows_per_batch": 8},
    },
    "moe": {"rates": {"router": 1e-2}},
    "camtl_moe": {"conditional": CONDITIONAL},
    "one": {"model": "dense", "tasks": ["cola"], "part_of": "single"},
    "two": {"model": "dense", "tasks": ["sts-b"], "part_of": "single"},
    "three": {"model": "dense", "tasks": ["mnli"], "part_of": "single"},
}


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def finished(glue: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    chosen = values(glue, encoder, systems=SYSTEMS)
    chosen["logging"]["report"] = True
    run(folder, chosen, resume=False)
    return folder


def read_scores(folder: Path) -> dict[tuple[str, str], float]:
    rows = csv.DictReader((folder / "train_scores.csv").open())
    return {(row["system"], row["task"]): float(row["score"]) for row in rows}


def test_every_system_scores_every_task(finished: Path) -> None:
    scores = read_scores(finished)
    listed = ["multitask", "camtl", "unsure", "moe", "camtl_moe", "single"]
    tasks = ("cola", "sts-b", "mnli", "mnli-mm")
    assert set(scores) == {(system, task) for system in listed for task in tasks}
    assert len(scores) == len(listed) * len(tasks)
    summary = (finished / "summary.md").read_text()
    assert all(system in summary for system in (*listed, "majority", "average", "spread"))
    assert [p.stem for p in (finished / "routes").glob("*.parquet")] == ["camtl_moe"]
    names = (
        "routes.parquet", "tasks.json", "agreement.json", "routes.png", "scores.png",
        "report/report.html",
    )  # fmt: skip
    assert all((finished / name).exists() for name in names)


def test_sizes_and_rows_are_those_of_the_models(finished: Path) -> None:
    facts = json.loads((finished / "systems.json").read_text())
    systems = facts["systems"]
    # 94 training rows in batches of 8
    assert systems["multitask"]["steps"] == 12
    assert sum(systems["multitask"]["used"].values()) == 96
    assert systems["unsure"]["steps"] == 6
    assert sum(systems["unsure"]["drawn"].values()) == 6 * 18
    assert sum(systems["unsure"]["used"].values()) == 6 * 8
    assert systems["single"]["used"] == {"cola": 40, "sts-b": 24, "mnli": 32}
    assert systems["single"]["parameters"] > 3 * facts["encoder"]
    assert systems["camtl"]["trained"] < systems["camtl"]["parameters"]
    assert systems["multitask"]["trained"] == systems["multitask"]["parameters"]


def test_means_of_metrics_are_listed_with_their_parts(finished: Path) -> None:
    parts = json.loads((finished / "systems.json").read_text())["parts"]
    scores = read_scores(finished)
    assert {(system, task) for system, task, _, _ in parts} == {
        (system, "sts-b") for system, _ in scores
    }
    found = {(system, metric): score for system, _, metric, score in parts}
    for (system, task), score in scores.items():
        if task == "sts-b":
            both = [found[system, f"{name}-Correlation"] for name in ("Pearson", "Spearman")]
            assert score == pytest.approx(sum(both) / 2)


def test_models_are_what_their_systems_say(finished: Path) -> None:
    workspace = Workspace.open(finished)
    kinds = {name: type(workspace.model(name)) for name in ("multitask", "camtl", "moe")}
    assert kinds == {"multitask": CAMTL, "camtl": CAMTL, "moe": RoutedCAMTL}
    camtl, moe = workspace.model("camtl"), workspace.model("camtl_moe")
    assert isinstance(camtl, CAMTL)
    assert camtl.config.max_length == 8
    assert isinstance(moe, RoutedCAMTL)
    assert moe.config.conditional
    frozen = workspace.model("multitask").backbone.embeddings.word_embeddings.weight
    initial = Workspace.open(finished).vector_context.model.embeddings.word_embeddings.weight  # type: ignore[union-attr]
    assert torch.equal(camtl.backbone.embeddings.word_embeddings.weight, initial)
    assert not torch.equal(frozen, initial)


def test_numbers_are_standardized_over_the_training_rows(
    glue: Path, encoder: Path, tmp_path: Path
) -> None:
    chosen = values(glue, encoder, heads={"standardize": True})
    run(tmp_path / "run", chosen, resume=False)
    workspace = Workspace.open(tmp_path / "run")
    model, data = workspace.model("multitask"), workspace.data
    assert isinstance(model, CAMTL)
    head = model.head_configs()["sts-b"]
    numbers = torch.arange(24.0) % 6
    assert head.center == pytest.approx(numbers.mean().item())
    assert head.scale == pytest.approx(numbers.std(correction=0).item())
    assert model.head_configs()["cola"].scale == 1.0
    found = answers(model, data, "sts-b", data.collection.slice("sts-b", "dev", "full"))
    mean = sum(map(float, found)) / len(found)
    assert abs(mean - head.center) < head.scale / 2  # a plain head is still near 0


def test_answers_are_the_heads_best_labels_row_by_row(finished: Path) -> None:
    workspace = Workspace.open(finished)
    model, data = workspace.model("camtl"), workspace.data
    assert isinstance(model, CAMTL)
    for task, head in (("mnli-mm", "mnli"), ("sts-b", "sts-b")):
        rows = data.collection.slice(task, "dev", "full")
        found = answers(model, data, task, rows)
        for row, answer in zip(rows, found, strict=True):
            batch = data.collate([row])
            ids = torch.tensor([model.task_id(head)])
            kinds = batch["token_type_ids"], batch["input_ids"]
            logits = model(kinds[1], token_type_ids=kinds[0], task_ids=ids).logits[head][0]
            if head == "mnli":
                names = ["contradiction", "entailment", "neutral"]
                assert answer == names[int(logits.argmax())]
            else:
                assert float(answer) == pytest.approx(logits[0].item(), abs=1e-5)


def test_the_second_text_of_a_pair_is_a_segment_of_its_own(finished: Path) -> None:
    data = Workspace.open(finished).data
    rows = data.collection.slice("sts-b", "dev", "full")
    batch = data.collate(rows[:1])
    sep = int(data.sep_token_id or -1)
    ends = (batch["input_ids"][0] == sep).nonzero().flatten().tolist()
    assert len(ends) == 2
    assert batch["token_type_ids"][0].nonzero().flatten().tolist() == list(
        range(ends[0] + 1, ends[1] + 1)
    )
    assert batch["labels"].dtype == torch.float32


@pytest.mark.parametrize("system", ["camtl", "single"])
def test_a_submission_answers_the_test_files(
    system: str, finished: Path, glue: Path, tmp_path: Path
) -> None:
    """Its answers to the dev rows, given as a test file, are those that the run was scored by."""
    for folder, name, keep in (("MNLI", "dev_matched", 3), ("STS-B", "dev", 3)):
        lines = (glue / folder / f"{name}.tsv").read_text().splitlines()
        cut = ["\t".join(line.split("\t")[:keep]) for line in lines]
        test = glue / folder / f"{name.replace('dev', 'test')}.tsv"
        test.write_text("\n".join(cut) + "\n")
    asked = {"run": str(finished), "what": "submission", "system": system, **NO_IMPORT}
    write(tmp_path, asked)
    assert {path.name for path in tmp_path.iterdir()} == {"MNLI-m.tsv", "STS-B.tsv"}
    workspace = Workspace.open(finished)
    model = workspace.model("three" if system == "single" else system)
    assert isinstance(model, CAMTL)
    rows = workspace.collection.slice("mnli", "dev", "full")
    lines = (tmp_path / "MNLI-m.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == answers(
        model, workspace.data, "mnli", rows
    )
    with pytest.raises(UserError, match=r"unknown system 'camtll'; .*camtl"):
        write(tmp_path, {**asked, "system": "camtll"})


@pytest.mark.parametrize("name", ["unsure", "camtl_moe"])
def test_a_stopped_run_continues_to_the_same_scores(
    name: str, glue: Path, encoder: Path, finished: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    chosen = values(glue, encoder, systems={name: SYSTEMS[name]})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(whole, chosen, resume=False)
    original, steps = trainer.Trainer._train_step, iter(range(3))

    def until_killed(self: Any) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_train_step", until_killed)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, chosen, resume=False)
    run(stopped, chosen, resume=True)
    assert read_scores(stopped) == read_scores(whole)
    last = [CheckpointStore(f / "checkpoints" / name, 2).steps()[-1] for f in (whole, stopped)]
    files = [f / "checkpoints" / name for f in (whole, stopped)]
    weights = [next(f.glob(f"*{s}/model.safetensors")) for f, s in zip(files, last, strict=True)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptation": {"samples": 1}}, "adaptation.samples=0"),
        ({"systems": {"x": {"model": "dense", "tasks": ["colla"]}}}, "did you mean .*cola"),
        ({"systems": {"x": {"model": "dense", "conditional": {"name": "bas"}}}}, "'base'"),
        (
            {
                "systems": {
                    "x": {"model": "dense", "conditional": {"name": "base", "max_length": 5}}
                }
            },
            "no multiple of 'max_length' 5",
        ),
        ({"systems": {"x": {"model": "dense", "freeze_layers": "upper"}}}, "lower_half"),
        ({"systems": {"x": {"rates": {"rooter": 1.0}}}}, "router"),
        ({"training": {"epochs": 0.0}}, "epochs is 0.0"),
        ({"heads": {"pooling": "max"}}, "heads.pooling"),
    ],
)
def test_mistakes_are_one_clear_error(
    changes: dict[str, Any], message: str, glue: Path, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", values(glue, encoder, **changes), resume=False)


def test_texts_need_a_model_that_writes(glue: Path, encoder: Path, tmp_path: Path) -> None:
    """Tasks without lists of labels are for sequence-to-sequence backbones."""
    from tests.runs import write_tasks

    folder = tmp_path / "tasks"
    folder.mkdir()
    tasks = {"name": "folder", "path": str(write_tasks(folder)), "cache_dir": str(tmp_path / "c")}
    with pytest.raises(UserError, match="'colour-a' has no list of labels"):
        run(tmp_path / "run", values(glue, encoder, tasks=tasks), resume=False)


def test_choices_are_scored_by_question(glue: Path, encoder: Path, tmp_path: Path) -> None:
    root = tmp_path / "superglue"
    for split in ("train", "val"):
        lines = [{**LINES["COPA"], "idx": n, "label": n % 2} for n in range(6)]
        write_superglue(root, "COPA", *lines, split=split)
        write_superglue(root, "ReCoRD", LINES["ReCoRD"], split=split)
    own = {"name": "superglue", "path": str(root), "cache_dir": str(tmp_path / "cache")}
    chosen = values(glue, encoder, tasks={**own, "pairs": True})
    run(tmp_path / "run", chosen, resume=False)
    scores = read_scores(tmp_path / "run")
    assert scores["multitask", "copa"] == 0.5  # the same question with either answer
    workspace = Workspace.open(tmp_path / "run")
    model, data = workspace.model("multitask"), workspace.data
    assert isinstance(model, CAMTL)
    rows = data.collection.slice("record", "dev", "full")
    found, accepted = scored_answers(model, data, "record", rows)
    assert accepted == [["Bob Ray"], ["Ann"]]
    right = [answer in own for answer, own in zip(found, accepted, strict=True)]
    assert scores["multitask", "record"] == sum(right) / 2
    assert "| record | QA-F1-and-EM |" in (tmp_path / "run" / "summary.md").read_text()
    with pytest.raises(UserError, match=r"copa' is a choice among options.*tasks\.pairs=true"):
        run(tmp_path / "other", {**chosen, "tasks": own}, resume=False)
    tiny = {**tiny_values(root)["backbone"], "pretraining": {"steps": 1, "batch_size": 2}}
    with pytest.raises(UserError, match=r"tasks\.pairs=true cuts copa, record into"):
        run(tmp_path / "third", {**chosen, "backbone": tiny}, resume=False)


def test_a_run_and_its_submission_from_the_hub(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    own = {"name": "glue", "hub": "some/glue", "tasks": ["cola", "mnli"]}
    chosen = values(tmp_path, encoder, tasks={**own, "cache_dir": str(tmp_path / "cache")})
    run(tmp_path / "run", chosen, resume=False)
    assert set(read_scores(tmp_path / "run")) == {
        ("multitask", task) for task in ("cola", "mnli", "mnli-mm")
    }
    asked = {"run": str(tmp_path / "run"), "what": "submission", "system": "multitask"}
    write(tmp_path / "out", {**asked, **NO_IMPORT})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    assert (tmp_path / "out" / "CoLA.tsv").read_text().startswith("index\tprediction\n0\t")
