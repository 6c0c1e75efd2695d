"""Cells of a zero-shot evaluation: scores against an oracle, routes, and kinds of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from moe_tasks import experiment
from moe_tasks.errors import UserError
from moe_tasks.evaluation.unseen_routes import Placer
from moe_tasks.evaluation.views import view
from moe_tasks.evaluation.zeroshot import CellKey, ZeroShot
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import DenseModel
from moe_tasks.tasks.tokens import encode_texts
from moe_tasks.training.checkpoint import CheckpointStore
from moe_tasks.workspace import Workspace
from tests import models
from tests.zeroshot_runs import finished_run, run_values


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_run_evaluates_its_unseen_tasks_itself(run: Path) -> None:
    cells = {path.parent.relative_to(run / "zeroshot") for path in run.rglob("result.json")}
    # dense: 1 route, routed: 3; three tasks in two wordings
    assert len(cells) == (1 + 3 * 3) * 3 * 2
    assert not list(run.rglob("error.json"))
    text = (run / "zeroshot" / "sweep.md").read_text()
    for label in ("multitask", "moe (text)", "moe\\_inputs (inputs)", "moe\\_learned (nearest)"):
        assert label in text


def oracle(workspace: Workspace, system: str, key: CellKey, model: Any) -> list[list[float]]:
    """Every option alone, nothing padded."""
    asked = view(workspace.collection, key.task, key.template)
    tokenizer, data = workspace.data.tokenizer, workspace.config.data
    found = []
    for example in asked.examples:
        (source,) = encode_texts(tokenizer, [example.input], data.max_source)
        sums = []
        for option in example.options:
            (target,) = encode_texts(tokenizer, [f" {option}"], data.max_target)
            ids, labels = (torch.tensor(t.tolist())[None] for t in (source, target))
            with torch.no_grad():
                logits = model(input_ids=ids, labels=labels).logits
            sums.append(float(logits.log_softmax(-1).gather(-1, labels[..., None]).sum()))
        found.append(sums)
    return found


@pytest.mark.parametrize("system", ["multitask", "moe", "moe_inputs"])
def test_predictions_have_every_option_as_the_oracle_scores_it(run: Path, system: str) -> None:
    workspace = Workspace.open(run)
    model = workspace.model(system)
    for task in ("fixed", "own"):
        folder = run / "zeroshot" / system / "auto" / task / "before"
        key = CellKey(system, task, "before", "auto")
        plain: Any = model.backbone
        if isinstance(model, TaskMoE):
            route = torch.nn.functional.one_hot(
                torch.tensor(result(folder)["experts"]), model.spec.num_experts
            )
            plain = model.squeeze_route(route.float())
        expected = oracle(workspace, system, key, plain)
        found = lines(folder)
        assert len(found) == 12
        for line, sums in zip(found, expected, strict=True):
            assert line["log_probs"] == pytest.approx(sums, abs=1e-4)
            assert line["prediction"]["sum"] == line["options"][sums.index(max(sums))]
        right = [line["prediction"]["sum"] in line["outputs"] for line in found]
        assert result(folder)["scores"]["sum"] == pytest.approx(sum(right) / 12)
        assert set(result(folder)["scores"]) == {"sum", "mean"}


def test_open_tasks_are_generated_and_scored_by_their_metric(run: Path) -> None:
    folder = run / "zeroshot" / "multitask" / "auto" / "open" / "after"
    assert set(result(folder)["scores"]) == {"generated"}
    assert result(folder)["metric"] == "EM"
    assert result(folder)["chance"] is None
    assert {"prediction", "outputs", "input", "row"} == set(lines(folder)[0])


def test_baselines(run: Path) -> None:
    fixed = result(run / "zeroshot" / "multitask" / "auto" / "fixed" / "before")
    assert fixed["chance"] == pytest.approx(1 / 3)
    assert fixed["majority"] == pytest.approx(1 / 3)
    own = result(run / "zeroshot" / "multitask" / "auto" / "own" / "before")
    assert own["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert own["majority"] == 1.0  # the first option is always right


def placer(run: Path, system: str) -> Placer:
    workspace = Workspace.open(run)
    return Placer(workspace, system, workspace.model(system))


def test_routes_from_text_are_the_routers_own(run: Path) -> None:
    """The text of a training task's templates gives that task's vector, hence its route."""
    place = placer(run, "moe")
    source = place.workspace.vectors("moe")
    model = place.model
    assert isinstance(model, TaskMoE)
    for number, task in enumerate(model.task_names):
        texts = place.workspace.vector_context.prompts.texts(task)  # type: ignore[union-attr]
        vector = source.place_texts(texts)  # type: ignore[attr-defined]
        assert torch.allclose(vector, model.task_vectors[number], atol=1e-4)
    placed = place.place("fixed", "name a colour which colour ?", [], "text")
    expected = model.route_of(source.place_texts(["name a colour which colour ?"]))  # type: ignore[attr-defined]
    assert placed.route == tuple(expected.argmax(-1).tolist())


def test_routes_of_training_tasks_and_their_average(run: Path) -> None:
    place = placer(run, "moe_learned")
    model = place.model
    assert isinstance(model, TaskMoE)
    near = place.place("fixed", "colour of the hat ? text", [], "nearest")
    assert near.placed_on == "hat"
    own = model.routes()[model.task_id("hat")].argmax(-1)
    assert near.route == tuple(own.tolist())
    merged = place.place("fixed", "", [], "average").model
    name, bank = next((n, m) for n, m in model.backbone.named_modules() if n.endswith("fc1"))
    index = model.layer_names.index(".".join(name.split(".")[1:4:2]).replace("layers.", ""))
    weights = model.routes().mean(0)[index]
    parts = torch.stack([bank.state_dict()[k] for k in sorted(bank.state_dict()) if "weight" in k])
    if parts.dim() == 4:
        parts = parts[0]
    expected = (weights[:, None, None] * parts).sum(0)
    assert torch.allclose(dict(merged.named_modules())[name].weight, expected, atol=1e-6)


def test_a_training_task_keeps_its_own_route(run: Path) -> None:
    placed = placer(run, "moe").place("coat", "whatever", [], "average")
    assert (placed.source, placed.placed_on) == ("own", "coat")


@pytest.mark.parametrize(
    ("system", "route", "needs"),
    [
        ("moe_learned", "text", "task_vectors=prompt"),
        ("moe", "inputs", "task_vectors=inputs"),
        ("moe_inputs", "text", "task_vectors=prompt"),
        ("moe", "sentence", "task_vectors=prompt_sentence"),
    ],
)
def test_a_system_without_the_needed_vectors(
    run: Path, system: str, route: Any, needs: str
) -> None:
    with pytest.raises(UserError, match=f"route={route} needs a system trained with {needs}"):
        placer(run, system).place("fixed", "text", [], route)


def test_a_model_that_only_reads(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.open(run)
    reader: Any = DenseModel(models.bert().base_model, workspace.data.train_tasks)
    monkeypatch.setattr(workspace, "model", lambda name: reader)
    key = CellKey("multitask", "own", "before", "auto")
    with pytest.raises(UserError, match="a BertModel only reads"):
        ZeroShot(workspace, workspace.collection).cell(key)


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("task", ["own", "open"])
def test_decoder_only_systems(
    run: Path, task: str, routed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.open(run)
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=len(workspace.data.tokenizer), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        initializer_range=0.2, head_dim=8,
    )  # fmt: skip
    llama: Any = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)).eval()
    trained = workspace.data.train_tasks
    model: Any = DenseModel(llama, trained)
    if routed:
        vectors = workspace.vectors("moe").fit(trained)
        model = TaskMoE.from_backbone(llama, trained, task_vectors=vectors, noise=0.2)
    monkeypatch.setattr(workspace, "model", lambda name: model)
    key = CellKey("moe" if routed else "multitask", task, "before", "auto")
    cell = ZeroShot(workspace, workspace.collection).cell(key)
    if routed:
        assert cell.result["source"] == "text"
        llama = model.squeeze_route(
            torch.nn.functional.one_hot(torch.tensor(cell.result["experts"]), 3).float()
        )
    asked = view(workspace.collection, task, "before")
    tokenizer = workspace.data.tokenizer
    for line, example in zip(cell.predictions, asked.examples, strict=True):
        if task == "open":
            assert isinstance(line["prediction"], str)
            continue
        (source,) = encode_texts(tokenizer, [example.input], 40)
        for option, found in zip(example.options, line["log_probs"], strict=True):
            (target,) = encode_texts(tokenizer, [f" {option}"], 8)
            ids = torch.tensor([*source.tolist()[:-1], *target.tolist()])[None]
            with torch.no_grad():
                log_p = llama(input_ids=ids).logits.log_softmax(-1)[0, len(source) - 2 : -1]
            expected = log_p.gather(-1, ids[0, len(source) - 1 :, None]).sum()
            assert found == pytest.approx(float(expected), abs=1e-4)


def test_training_on_drawn_templates_goes_on_bit_for_bit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = run.parent / "tasks"
    config = run_values(root, systems={"moe": {}})
    experiment.run(tmp_path / "whole", config, resume=False)
    save = CheckpointStore.save

    def cut(store: CheckpointStore, *arguments: Any, **options: Any) -> Any:
        if store.folder.name == "moe" and len(store.steps()) == 2:
            raise RuntimeError("power cut")
        return save(store, *arguments, **options)

    monkeypatch.setattr(CheckpointStore, "save", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        experiment.run(tmp_path / "cut", config, resume=False)
    monkeypatch.undo()
    experiment.run(tmp_path / "cut", config, resume=True)
    whole, again = (
        Workspace.open(tmp_path / n).model("moe").state_dict() for n in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], again[name]) for name in whole)
