"""Costs on paper: sizes against real models, bytes and times against counts made by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from analysis.bench.race import Race
from analysis.bench.setting import Setting
from analysis.scaling import group, measure
from analysis.scaling.__main__ import layouts, main
from analysis.scaling.cluster import H100, as_json, read_cluster
from analysis.scaling.cost import Job, cost, imbalance
from analysis.scaling.sizes import BACKBONES, Backbone

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "tie_word_embeddings": True,
}  # fmt: skip
TINY = Backbone("tiny", 4, 8, 2, 10, 0, 2)


@pytest.mark.parametrize("name", ["bart-large", "t5-3b", "llama-8b"])
def test_sizes_are_those_of_the_models(name: str) -> None:
    with torch.device("meta"):
        if name == "bart-large":
            model = BartForConditionalGeneration(BartConfig())
        elif name == "t5-3b":
            config = T5Config(d_model=1024, d_ff=16384, num_heads=32, d_kv=128, num_layers=24)
            model = T5ForConditionalGeneration(config)
        else:
            model = LlamaForCausalLM(LlamaConfig(**LLAMA_8B))
    backbone = BACKBONES[name]
    counted = backbone.layer_parameters + backbone.shared_parameters
    assert counted == pytest.approx(model.num_parameters(), rel=0.01)  # but for biases and norms


def test_flops_of_a_small_decoder_counted_by_hand() -> None:
    positions, parameters = 5, 2 * (4 * 4 * 4 + 2 * 4 * 8) + 10 * 4
    attention = 2 * 2 * positions**2 * 4
    assert TINY.forward_flops(3, 2) == 2 * positions * parameters + attention


def test_one_device_exchanges_nothing() -> None:
    alone = cost(Job(TINY, 3, 1), H100, "replicated")
    assert alone.gradient_bytes == alone.dispatch_bytes == alone.gradients_s == 0
    assert alone.imbalance == 1


def test_bytes_counted_by_hand() -> None:
    job = Job(TINY, 4, world=4, rows=2, source=3, target=2)
    layers, shared, word = 2 * (64 + 64), 40, 2
    replicated = cost(job, H100, "replicated")
    assert replicated.gradient_bytes == 2 * 3 / 4 * (shared + 4 * layers) * word
    assert cost(job, H100, "sharded").gradient_bytes == pytest.approx(
        1.5 * replicated.gradient_bytes
    )
    owned = cost(replace(job, owners=2), H100, "dispatch")
    assert owned.gradient_bytes == 2 * (3 / 4 * shared + 1 / 2 * 2 * layers) * word
    positions, away = 2 * 5, 1 / 2
    assert owned.dispatch_bytes == 2 * 2 * 2 * positions * 4 * word * away
    direct = cost(replace(job, owners=2), H100, "direct")
    assert direct.dispatch_bytes == pytest.approx(3 / 4 * owned.dispatch_bytes)  # 3 ways, not 4


def test_experts_of_more_owners_take_less_memory() -> None:
    costs = [
        cost(Job(BACKBONES["bart-large"], 16, 16, owners=k), H100, "dispatch").memory_bytes
        for k in (2, 4, 8, 16)
    ]
    assert costs == sorted(costs, reverse=True)


def test_imbalance_of_two_tasks_on_two_owners() -> None:
    assert imbalance(8, 1, 5) == 1.0
    assert 1.0 < imbalance(8, 2, 2) < 2.0  # alone on one half of the draws, together on the other
    assert imbalance(8, 8, 4096) < 1.2


def test_layouts_divide_experts_and_devices() -> None:
    found = {(c.layout, c.owners) for c in layouts(Job(TINY, 6, 4), H100)}
    assert found == {("replicated", 1), ("sharded", 1), ("dispatch", 2), ("direct", 2)}


def test_the_command_writes_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backbones", "bart-large", "--num-experts", "64", "--worlds", "1", "16"]
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 0
    assert "bart-large" in capsys.readouterr().out
    lines = (tmp_path / "out" / "scaling.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 + 2 + 2 * 4
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbones", "bart-lerge"], "bart-large"),
        (["--cluster", "h200"], "h100"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cluster_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.json"
    file.write_text(as_json(replace(H100, name="mine", per_node=4)))
    arguments = ["--backbones", "bart-base", "--worlds", "8", "--cluster", str(file)]
    assert main(["--out", str(tmp_path / "out"), *arguments]) == 0
    file.write_text(json.dumps({**asdict(H100), "flops": -1}))
    assert main(["--out", str(tmp_path / "bad"), *arguments]) == 2
    assert "'flops' is -1" in capsys.readouterr().err


SETTING = Setting(
    scheme="merge_st", threads=1, rows=8, tasks=4, width=4, ffn=8, layers=1, heads=2, vocab=10,
    source=3, target=2, num_experts=3,
)  # fmt: skip


def test_constants_are_those_of_the_measured_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_turns", lambda world: max(1.0, world / 2))
    layouts = [measure.Layout(1, None), measure.Layout(2, 1), measure.Layout(4, 1)]
    sizes = group.bytes_exchanged()
    exchange = {f"{group.EXCHANGE}{name}": 2e-3 + size / 1e9 for name, size in sizes.items()}
    found = Race(
        {
            "half dense": [{group.PASSES: 0.1, group.UPDATE: 0.01}],
            "half merge_st": [{group.PASSES: 0.12, group.UPDATE: 0.02}],
            "2 zero1": [exchange],
        }
    )
    cluster = measure.constants(found, SETTING, layouts)
    backbone = measure.backbone_of(SETTING)
    parameters = backbone.shared_parameters + 3 * backbone.layer_parameters
    assert cluster.flops == pytest.approx(3 * 4 * backbone.forward_flops(3, 2) / 0.1)
    assert cluster.expert_overhead == pytest.approx(1.2)
    assert cluster.memory_bandwidth == pytest.approx(28 * parameters / 0.02)
    assert cluster.near == pytest.approx(1e9)
    assert cluster.near_latency == pytest.approx(1e-3, rel=1e-3)
    alone, two, four = (measure.predicted(SETTING, layout, cluster) for layout in layouts)
    assert alone == pytest.approx(2 * 0.12 + 0.02)  # twice the rows, as many parameters
    exchanged = 4 * parameters / 1e9 + 2 * 2e-3  # shared parameters and experts, one sum each
    assert two == pytest.approx(0.24 + 0.01 + exchanged, rel=1e-4)
    # Four on two cores take turns, and update a fourth each.
    assert four == pytest.approx(2 * (0.24 + 0.005) + 1.5 * 4 * parameters / 1e9 + 12e-3, rel=1e-4)


def test_a_few_processes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"rows": 8, "tasks": 4, "width": 16, "layers": 1, "vocab": 50, "source": 8, "target": 4}
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    arguments = ["measure", "--out", str(tmp_path), "--worlds", "2", "--rounds", "1", *flags]
    assert main(arguments) == 0
    alone, two = csv.DictReader((tmp_path / "measured.csv").open())
    assert [alone["layout"], two["layout"]] == ["1", "2 zero1"]
    assert float(alone["of_linear"]) == float(alone["cpu_ratio"]) == 1
    for line, world in ((alone, 1), (two, 2)):
        step = float(line["measured_s"])
        assert float(line["rows_per_s"]) == pytest.approx(world * 8 / step)
        assert float(line["error"]) == pytest.approx(float(line["predicted_s"]) / step - 1)
    assert read_cluster(str(tmp_path / "cluster.json")).near < 1e12
    assert "predicted s" in capsys.readouterr().out
    assert main(["measure", "--out", str(tmp_path / "bad"), "--rows", "9"]) == 2
    assert "tasks" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
