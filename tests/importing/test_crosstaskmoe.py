"""Reading published folders: what becomes of their facts, and what is refused in words."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file

from moe_tasks import TaskMoE
from moe_tasks.errors import UserError
from moe_tasks.importing.crosstaskmoe import import_crosstaskmoe
from tests.importing import published, refusals


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return published.write(tmp_path / "theirs", published.config(vanilla="0"))


def test_the_command_writes_a_model_that_loads(
    export: Callable[..., str], source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "wrote ours" in export("from_crosstaskmoe=theirs", "out=ours")
    model = TaskMoE.load("ours")
    assert model.task_names == tuple(published.TASKS)
    assert model.layer_names == ["encoder.1", "decoder.1"]
    assert model.backbone.generation_config.no_repeat_ngram_size == 3
    export("from_crosstaskmoe=theirs", "out=hard", "router_mode=gumbel_softmax_st")
    assert TaskMoE.load("hard").spec.selection["name"] == "gumbel_st"
    before = sorted(tmp_path.iterdir())
    for wrong, message in (
        (["from_crosstaskmoe=theirs", "out=ours"], "not empty"),
        (["from_crosstaskmoe=thiers", "out=new"], "did you mean 'theirs'"),
        (["from_crosstaskmoe=theirs", "what=model", "out=new"], "only one of"),
        (["from_crosstaskmoe=theirs", "router_mode=hard", "out=new"], "unknown router_mode 'hard'"),
    ):
        with pytest.raises(SystemExit):
            export(*wrong)
        errors = capfd.readouterr().err
        assert message in errors
        assert errors.count("error:") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("mode", "name", "routing", "temperature"),
    [
        ("softmax", "softmax", "mix", 1.0),
        ("gumbel_softmax", "gumbel", "mix", 0.1),
        ("gumbel_softmax_st", "gumbel_st", "select", 0.1),
    ],
)
def test_router_mode_becomes_a_selection(
    mode: str, name: str, routing: str, temperature: float, tmp_path: Path
) -> None:
    source = published.write(tmp_path / "theirs", published.config(router_mode=mode))
    model = TaskMoE.load(import_crosstaskmoe(source, tmp_path / "ours"))
    assert model.spec.selection["name"] == name
    assert model.selection.mode == routing
    assert model.selection.gradient == ("exact" if name == "gumbel_st" else "merge_st")
    assert {model.selection.temperature(step) for step in (0, 30_000)} == {temperature}


@pytest.mark.parametrize("n", [1, 2])
def test_random_routes_per_task_stay_what_they_are(n: int, tmp_path: Path) -> None:
    values = published.config(vanilla="0", router_input_dim=published.TASK_DIM)
    source = published.write(tmp_path / "theirs", values)
    m, layers = values["router_block_num"], 4
    drawn = torch.rand(len(published.TASKS), layers, m).argsort(-1) < n
    table = (drawn.double() / n).flatten(1).numpy()
    values["router_input_dim"] = 10  # not the routes' width
    rewritten = published.weights(values)
    for name in ("linear1.weight",):
        rewritten[f"router.model.{name}"] = torch.randn(published.HIDDEN, 10)
    torch.save(rewritten, source / "best" / "model.pt")
    (source / "config.json").write_text(json.dumps(values))
    numpy.save(source / "best" / "task_vecs.npy", table)
    model = TaskMoE.load(import_crosstaskmoe(source, tmp_path / "ours"))
    assert torch.allclose(model.routes(), drawn[:, [1, 3]].float() / n)
    assert model.selection.mode == ("select" if n == 1 else "mix")
    assert not model.task_vectors.requires_grad


def test_weights_of_half_precision_become_float32(source: Path, tmp_path: Path) -> None:
    file = source / "best" / "model.pt"
    torch.save({k: v.half() for k, v in torch.load(file).items()}, file)
    import_crosstaskmoe(source, tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for name, tensor in saved.items() if name != "step"} == {torch.float32}


Change = Callable[[Path], Any]


def config(**changes: Any) -> Change:
    def change(root: Path) -> None:
        file = root / "config.json"
        values = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return change


def weight(name: str, new: Callable[[torch.Tensor], Any] | None, other: str = "") -> Change:
    """Replace a weight by ``new`` of it; remove it (``None``); or store it under another name."""

    def change(root: Path) -> None:
        file = root / "best" / "model.pt"
        state = torch.load(file)
        old = state.pop(name)
        if new is not None:
            state[other or name] = new(old)
        torch.save(state, file)

    return change


def tasks(names: Any) -> Change:
    return lambda root: (root / "best" / "id2task.json").write_text(json.dumps(names))


def table(array: Any) -> Change:
    return lambda root: numpy.save(root / "best" / "task_vecs.npy", array)


def remove(name: str) -> Change:
    return lambda root: (root / name).unlink()


def content(name: str, data: bytes) -> Change:
    return lambda root: (root / name).write_bytes(data)


def routes_as_wide_as_vectors(root: Path) -> None:
    numpy.save(root / "best" / "task_vecs.npy", numpy.tile(numpy.eye(3), (1, 4)))


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.flatten()[0] = torch.nan
    return tensor


FC1 = "model.encoder.layers.1.blocks.2.fc1.weight"
VECTORS = numpy.ones((3, published.TASK_DIM), numpy.float32)
NAMES = {"0": "a", "1": "b", "2": "c"}
MISTAKES: dict[str, tuple[Change, str]] = {
    "no config": (remove("config.json"), r"config\.json: cannot be read"),
    "config syntax": (content("config.json", b"{"), r"config\.json:1: not JSON"),
    "config list": (content("config.json", b"[]"), r"config\.json: expected keys"),
    "no experts": (config(router_block_num=None), r"config\.json: missing key 'router_block_num'"),
    "zero experts": (config(router_block_num=0), "'router_block_num' is 0; .* at least 1"),
    "experts text": (config(router_block_num="3"), "'router_block_num' is '3'; expected int"),
    "router": (
        config(router_nn_type="liner"),
        r"config\.json: unknown router_nn_type 'liner'.*'li",
    ),
    "mode": (config(router_mode="softmx"), "unknown router_mode 'softmx'; did you mean 'softmax'"),
    "depth": (config(decoder_layers=3), "'encoder_layers' is 2 and 'decoder_layers' is 3: the pub"),
    "heads": (config(encoder_attention_heads=3), r"config\.json: no BART model"),
    "activation": (config(activation_function="gellu"), r"config\.json: no BART model.*gellu"),
    "vanilla": (config(encoder_vanilla_layers="0;1"), "'encoder_vanilla_layers' is '0;1'"),
    "all vanilla": (
        config(encoder_vanilla_layers="0,1", decoder_vanilla_layers=[1, 0]),
        "every layer is without experts",
    ),
    "too large": (config(vocab_size=10**12), r"model\.pt: wrong shapes: .*1000000000000"),
    "other experts": (config(router_block_num=2), r"model\.pt: unknown .*blocks\.2\..*in all"),
    "other router": (
        config(router_nn_type="lstm"),
        r"pt: missing router\.model\.pos_embed\.weight, .* and unknown router\.model\.linear",
    ),
    "other width": (
        config(router_hidden_dim=9),
        r"wrong shapes: router\.model\.linear1\.weight is",
    ),
    "vector width": (
        config(router_input_dim=13),
        r"task_vecs\.npy: task vectors of width 12, but 'router_input_dim' in config\.json is 13",
    ),
    "no weights": (remove("best/model.pt"), r"no file .*model\.pt"),
    "not torch": (content("best/model.pt", b"nothing"), r"model\.pt: not a file of tensors"),
    "no bytes": (content("best/model.pt", b""), r"model\.pt: not a file of tensors"),
    "a list": (lambda r: torch.save([1], r / "best/model.pt"), r"model\.pt: holds a list"),
    "no tensor": (weight(FC1, lambda _: 3), r"model\.pt: not a named tensor .*" + FC1),
    "integers": (weight(FC1, lambda w: w.long()), r"model\.pt: not a named tensor .*" + FC1),
    "missing": (weight(FC1, None), rf"model\.pt: missing {FC1}$"),
    "unknown": (
        weight(FC1, lambda w: w, FC1.replace("fc1", "fc3")),
        rf"missing {FC1} and unknown .*fc3\.weight; did you mean '{FC1}'",
    ),
    "shape": (weight(FC1, lambda w: w.T), rf"wrong shapes: {FC1} is \[8, 12\], expected \[12, 8\]"),
    "infinite": (weight(FC1, _nan), rf"model\.pt: not finite: {FC1}"),
    "untied": (
        weight("lm_head.weight", lambda w: w + 1),
        r"model\.pt: lm_head\.weight should equal model\.shared\.weight",
    ),
    "no ids": (remove("best/id2task.json"), r"id2task\.json: cannot be read"),
    "ids list": (tasks(["a", "b", "c"]), r"id2task\.json: expected"),
    "ids from 1": (tasks({"1": "a", "2": "b", "3": "c"}), r"ids 0 to 2; unknown 3, missing 0"),
    "ids text": (tasks({**NAMES, "x": "d"}), "ids 0 to 3; unknown x, missing 3"),
    "id of no task": (tasks({**NAMES, "1": 7}), "id 1: 7 is no task name"),
    "two ids": (tasks({**NAMES, "1": "a"}), r"id2task\.json: more than one id for a"),
    "path": (tasks({**NAMES, "1": "../b"}), r"id2task\.json: task name '\.\./b'"),
    "too many ids": (tasks({**NAMES, "3": "d"}), r"task_vecs\.npy: 3 rows, but .* names 4 tasks"),
    "no vectors": (remove("best/task_vecs.npy"), r"no file .*task_vecs\.npy"),
    "no array": (content("best/task_vecs.npy", b"\x93NUMPY"), r"not a plain NumPy array"),
    "vector": (table(VECTORS[0]), r"task_vecs\.npy: expected a table .* got float32 \[12\]"),
    "whole numbers": (table(VECTORS.astype(int)), r"task_vecs\.npy: expected a table .* got int64"),
    "vectors infinite": (table(VECTORS * [[1], [1], [numpy.inf]]), r"npy: not finite in row 2"),
    "either": (routes_as_wide_as_vectors, "cannot be told from fixed random routes"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_writes_nothing(name: str, source: Path) -> None:
    change, message = MISTAKES[name]
    change(source)
    refusals.check(import_crosstaskmoe, source, message)


@pytest.mark.parametrize("file", ["best/model.pt", "best/task_vecs.npy"])
def test_code_in_a_checkpoint_is_not_executed(file: str, source: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    if file.endswith(".pt"):
        torch.save({"model.shared.weight": refusals.Malicious(marker)}, source / file)
    else:
        numpy.save(source / file, numpy.array([refusals.Malicious(marker)]), allow_pickle=True)
    with pytest.raises(UserError, match=Path(file).name):
        import_crosstaskmoe(source, tmp_path / "ours")
    assert not marker.exists()
    (source / file).write_bytes(pickle.dumps(refusals.Malicious(marker)))
    with pytest.raises(UserError, match=Path(file).name):
        import_crosstaskmoe(source, tmp_path / "ours")
    assert not marker.exists()
    pickle.loads(pickle.dumps(refusals.Malicious(marker)))
    assert marker.exists()  # so the checks above could have failed


def test_an_error_while_writing_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: TaskMoE, path: Path) -> None:
        (path / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TaskMoE, "save", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        import_crosstaskmoe(source, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
