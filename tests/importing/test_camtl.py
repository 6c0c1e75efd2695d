"""Published conditional encoders: they compute the published function, or are refused in words."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moe_tasks.conditional.batches import UncertainBatches
from moe_tasks.conditional.model import CAMTL
from moe_tasks.conditional.uncertainty import normalized_entropy, pick, published_scores
from moe_tasks.errors import UserError
from moe_tasks.importing.camtl import import_camtl, published_name
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.tasks.uncertainty_sampling import UncertaintySampling
from moe_tasks.training.data import Batch
from tests.importing import camtl_published as published
from tests.importing import refusals


def error(ours: Tensor | None, expected: Tensor, least: float = 0.0) -> float:
    """Largest difference as a share of the largest expected magnitude (``least`` or more)."""
    assert ours is not None
    assert ours.shape == expected.shape
    scale = max(expected.detach().abs().max().item(), least)
    difference = (ours - expected).detach().abs().max().item()
    return difference / scale if scale else difference


def load(source: Path, out: Path) -> CAMTL:
    model = MultiTaskModel.load(import_camtl(source, out))
    assert isinstance(model, CAMTL)
    return model


def gradients(model: CAMTL) -> dict[str, Tensor | None]:
    top = str(model.backbone.config.num_hidden_layers - 1)
    top_layer = top if model.config.bottleneck == "top" else None
    return {published_name(n, top_layer): p.grad for n, p in model.named_parameters()}


class TestPublishedNumbers:
    """The published code's own, where they lie beside the checkout."""

    @pytest.fixture(params=["base_l6", "large_l4"])
    def source(self, request: pytest.FixtureRequest, shared: Path) -> Path:
        folder = shared / "parity" / "camtl" / request.param
        if not folder.is_dir():
            pytest.skip("no parity/camtl in the shared folder")
        return folder

    def inputs(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "token_type_ids", "task_ids", "labels")
        return {name: expected[name] for name in names}

    def test_states_logits_losses_and_gradients(self, source: Path, tmp_path: Path) -> None:
        expected = load_file(source / "expected.safetensors")
        model = load(source, tmp_path / "ours")
        output = model(**self.inputs(expected))
        output.loss.backward()
        assert error(output.last_hidden_state, expected["sequence_output"]) < 1e-5
        assert error(output.pooler_output, expected["pooled_output"]) < 1e-5
        assert error(output.loss, expected["loss"]) < 1e-5
        for task in model.task_names:
            assert error(output.logits[task], expected[f"logits.{task}"]) < 1e-5
            assert error(output.losses[task], expected[f"loss.{task}"]) < 1e-5
        wanted = {k.removeprefix("grad."): v for k, v in expected.items() if k.startswith("grad.")}
        assert len(wanted) >= 18
        ours = gradients(model)
        for name, gradient in wanted.items():
            assert error(ours[name], gradient) < 1e-5, name

    def test_entropies_scores_and_picks(self, source: Path, tmp_path: Path) -> None:
        expected = load_file(source / "expected.safetensors")
        model = load(source, tmp_path / "ours")
        output = model(**self.inputs(expected))
        normalized = torch.zeros(6)
        for task, logits in output.logits.items():
            own = normalized[output.rows[task]] = normalized_entropy(logits.detach())
            assert error(own, expected[f"normalized_entropy.{task}"]) < 1e-5
        scores = published_scores(normalized, expected["task_ids"])
        assert error(scores, expected["mt_uncertainty_score"]) < 1e-5
        assert torch.equal(pick(scores, 3), expected["mt_uncertainty_top3"])

    def test_batches_score_alike(self, source: Path, tmp_path: Path) -> None:
        expected = load_file(source / "expected.safetensors")
        model = load(source, tmp_path / "ours")
        settings = UncertaintySampling(regression="zero", rows_per_batch=3)
        batch = Batch.of(self.inputs(expected), model.task_names)
        for rows_at_once in (1, 4, 32):
            sampled = UncertainBatches(Once(batch), model, settings, rows_at_once)
            assert error(sampled.scores(batch), expected["mt_uncertainty_score"]) < 1e-5
            chosen = expected["mt_uncertainty_top3"].sort().values
            assert torch.equal(sampled.next().inputs["labels"], expected["labels"][chosen])


class Once:
    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def next(self) -> Batch:
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("size", "depth", "d", "length"),
    [
        ("base", 2, 24, 12), ("base", 4, 24, 8), ("base", 6, 30, 10), ("base", 2, 24, 4),
        ("base", 4, 12, 12), ("large", 1, 24, 8), ("large", 3, 24, 8), ("large", 4, 30, 6),
        ("large", 2, 28, 7), ("large", 5, 12, 3),
    ],
)  # fmt: skip
def test_any_published_configuration(
    size: str, depth: int, d: int, length: int, tmp_path: Path
) -> None:
    values = published.config(size, depth, d, length)
    source = published.write(tmp_path / "theirs", values)
    oracle, model = published.Oracle(source), load(source, tmp_path / "ours").double()
    rows = published.batch(length)
    states, pooled, loss = oracle.loss(rows)
    loss.backward()
    output = model(**rows)
    output.loss.backward()
    assert error(output.last_hidden_state, states) < 1e-10
    assert error(output.pooler_output, pooled) < 1e-10
    assert error(output.loss, loss) < 1e-6  # losses are float32
    ours = gradients(model)
    assert set(ours) == set(oracle.w)
    for name, weight in oracle.w.items():
        if weight.grad is not None:
            assert error(ours[name], weight.grad, least=1e-4) < 1e-5, name


def test_other_tasks_and_no_positions(tmp_path: Path) -> None:
    values = published.config(tasks=["one", "b.two"], num_labels=[1, 5])
    source = published.write(tmp_path / "theirs", values)
    state = torch.load(source / "pytorch_model.bin")
    del state["bert.embeddings.position_ids"]
    torch.save({k: v.half() for k, v in state.items()}, source / "pytorch_model.bin")
    model = load(source, tmp_path / "ours")
    assert [h.kind for h in model.head_configs().values()] == ["regression", "classification"]
    assert model.head_configs()["b.two"].num_labels == 5
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_command_writes_a_model_that_loads(
    export: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    published.write(tmp_path / "theirs", published.config())
    assert "wrote ours" in export("from_camtl=theirs", "out=ours")
    assert MultiTaskModel.load("ours").task_names == ("cola", "sts-b", "mnli", "rte")
    before = sorted(tmp_path.iterdir())
    for wrong, message in (
        (["from_camtl=theirs", "out=ours"], "not empty"),
        (["from_camtl=thiers", "out=new"], "did you mean 'theirs'"),
        (["from_camtl=theirs", "from_crosstaskmoe=theirs", "out=new"], "only one of"),
    ):
        with pytest.raises(SystemExit):
            export(*wrong)
        errors = capfd.readouterr().err
        assert message in errors
        assert errors.count("error:") == 1
    assert sorted(tmp_path.iterdir()) == before


Change = Callable[[Path], Any]


def config(**changes: Any) -> Change:
    def change(root: Path) -> None:
        file = root / "config.json"
        values = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return change


def weight(name: str, new: Callable[[Tensor], Any] | None, other: str = "") -> Change:
    """Replace a weight by ``new`` of it; remove it (``None``); or store it under another name."""

    def change(root: Path) -> None:
        file = root / "pytorch_model.bin"
        state = torch.load(file)
        old = state.pop(name)
        if new is not None:
            state[other or name] = new(old)
        torch.save(state, file)

    return change


FILM = "bert.conditional_alignment.gb_weights.weight"
POSITIONS = "bert.embeddings.position_ids"
MISTAKES: dict[str, tuple[Change, str]] = {
    "no config": (lambda root: (root / "config.json").unlink(), r"config\.json"),
    "no weights": (lambda root: (root / "pytorch_model.bin").unlink(), r"no file .*model\.bin"),
    "key missing": (config(tasks=None), r"config\.json: missing key 'tasks'"),
    "architecture": (config(architecture="CA-MTL-bas"), "did you mean 'CA-MTL-base'"),
    "counts": (config(num_labels=[2, 1, 3]), "4 'tasks', but 3 'num_labels'"),
    "labels": (config(num_labels=[2, 1, 0, 2]), "'num_labels' of task 'mnli' is 0"),
    "no tasks": (config(tasks=[], num_labels=[]), "'tasks' names no task"),
    "task twice": (config(tasks=["a", "b", "a", "c"]), "names 'a' more than once"),
    "task name": (config(tasks=["../a", "b", "c", "d"]), r"task name '\.\./a'"),
    "odd depth": (config(num_hidden_layers=3), "has an even number of layers"),
    "depth": (config(num_hidden_layers=6), "missing bert.encoder.layer.3.attention"),
    "length": (config(max_seq_length=9), "width 24 is no multiple of 'max_length' 9; .* 8"),
    "other length": (config(max_seq_length=12), "wrong shapes: .*random_weight_matrix is"),
    "heads": (config(num_attention_heads=5), "config.json: no BERT model"),
    "activation": (config(hidden_act="glu"), "config.json: no BERT model"),
    "labels differ": (config(num_labels=[2, 1, 4, 2]), r"decoders\.2\.model\.weight is \[3, 24\]"),
    "weight missing": (weight(FILM, None), f"model.bin: missing {FILM}"),
    "weight unknown": (weight(FILM, lambda w: w, FILM + "s"), f"unknown {FILM}s; did you mean"),
    "weight shape": (weight(FILM, lambda w: w[:1]), f"wrong shapes: {FILM} is"),
    "weight infinite": (weight(FILM, lambda w: w / 0), f"not finite: {FILM}"),
    "weight whole": (weight(FILM, lambda w: w.long()), f"not a named tensor .*{FILM}"),
    "positions": (weight(POSITIONS, lambda w: w + 1), "position_ids is not 0 to 29"),
    "large as base": (config(architecture="CA-MTL-large"), "missing bert.encoder.layer.3.attent"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_writes_nothing(name: str, tmp_path: Path) -> None:
    source = published.write(tmp_path / "theirs", published.config())
    change, message = MISTAKES[name]
    change(source)
    refusals.check(import_camtl, source, message)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    source = published.write(tmp_path / "theirs", published.config())
    marker, file = tmp_path / "marker", source / "pytorch_model.bin"
    torch.save({FILM: refusals.Malicious(marker)}, file)
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        import_camtl(source, tmp_path / "ours")
    assert not marker.exists()
    pickle.loads(pickle.dumps(refusals.Malicious(marker)))
    assert marker.exists()  # so the check above could have failed
