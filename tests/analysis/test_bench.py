"""The benchmark: its table, that it is fair, and that its accounting is right."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.bench import generation, memory, models
from analysis.bench.__main__ import main
from analysis.bench.flops import training_flops
from analysis.bench.race import Contender, Measures, Repeat, race
from analysis.bench.setting import ALL_EXPERTS, QUICK, Setting
from analysis.bench.suite import Options, run_generation
from analysis.bench.table import rows_of
from moe_tasks.engines.local import LocalEngine
from moe_tasks.training.config import TrainingConfig

TINY = Setting(**QUICK, threads=1, num_experts=3)
COLUMNS = [
    "scheme", "num_experts", "rows", "tasks", "width", "ratio", "low", "high", "absolute", "unit",
]  # fmt: skip
_EPOCH = "clock"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stopwatch(setting: Setting) -> Repeat:
    """A contender that sleeps and says when; the scheme's name is for how many hundredths."""

    def repeat() -> Measures:
        began = time.monotonic()
        time.sleep(int(setting.scheme) / 100)
        return {"": time.monotonic() - began, _EPOCH: began}

    return repeat


def broken(setting: Setting) -> Repeat:
    raise RuntimeError("no memory left\nand more")


def test_the_public_command_writes_table_figure_and_machine(tmp_path: Path) -> None:
    arguments = ["--quick", "--threads", "1", "--num-experts", "3", "--out", str(tmp_path)]
    schemes = ["--schemes", "merge_st", ALL_EXPERTS]
    assert main(["training", *arguments, *schemes]) == 0
    rows = read(tmp_path / "training.csv")
    assert list(rows[0]) == COLUMNS
    by_name = {row["scheme"]: row for row in rows}
    assert {"dense", "merge_st", "merge_st:fwd_bwd", "merge_st/all_experts"} <= set(by_name)
    assert float(by_name["dense"]["ratio"]) == 1
    for row in rows:
        assert float(row["low"]) <= float(row["ratio"]) <= float(row["high"])
        assert float(row["absolute"]) > 0
        assert row["unit"] == "s"
    both, part = by_name["merge_st"], by_name["merge_st:fwd_bwd"]
    assert float(both["absolute"]) > float(part["absolute"])
    assert (tmp_path / "training.png").stat().st_size > 5000
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["torch"] == torch.__version__
    assert machine["sizes"]["threads"] == 1


def test_growth_is_over_the_fewest_experts(tmp_path: Path) -> None:
    arguments = ["--quick", "--threads", "1", "--num-experts", "1", "4", "2"]
    out = ["--schemes", "merge_st", "--out", str(tmp_path)]
    assert main(["growth", *arguments, *out]) == 0
    rows = {(row["scheme"], row["num_experts"]): row for row in read(tmp_path / "growth.csv")}
    names = ("merge_st/m=2", "merge_st:fwd_bwd/m=2")
    assert set(rows) == {(name, number) for name in names for number in ("2", "4")}
    assert float(rows["merge_st/m=2", "2"]["ratio"]) == 1
    assert float(rows["merge_st/m=2", "4"]["ratio"]) > 0
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_encoders_are_compared_with_what_stands_after_the_slash(tmp_path: Path) -> None:
    assert main(["conditional", "--quick", "--threads", "1", "--out", str(tmp_path)]) == 0
    names = [row["scheme"] for row in read(tmp_path / "conditional.csv") if row["ratio"] != "1"]
    expected = {"camtl_base/encoder", "camtl_large/encoder", "mt_uncertainty/camtl_base"}
    assert expected <= set(names)


def test_mistakes_are_one_clear_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["--schemes", "merge_ts"], "unknown scheme 'merge_ts'; did you mean 'merge_st'"),
        (["--rows", "10"], "10 rows cannot be shared equally by 8 tasks"),
    ):
        assert main(["training", *arguments, *out]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rounds_are_interleaved_and_the_slower_scheme_has_the_higher_ratio() -> None:
    contenders = [Contender(name, stopwatch, TINY.using(name)) for name in ("2", "4", "6")]
    outcome = race(contenders, 3)
    turns = sorted(
        (figures[_EPOCH], number, name)
        for name, rounds in outcome.results.items()
        for number, figures in enumerate(rounds)
    )
    assert [number for _, number, _ in turns] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [name for *_, name in turns] == ["2", "4", "6", "4", "6", "2", "6", "2", "4"]
    ratios = {row.scheme: row.ratio for row in rows_of(outcome, TINY, "s", base="2")}
    assert ratios["2"] == 1
    assert 1.5 < (ratios["4"] or 0) < 2.5
    assert 2.2 < (ratios["6"] or 0) < 3.8


def test_a_scheme_that_fails_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = race([Contender("1", stopwatch, TINY.using("1")), Contender("x", broken, TINY)], 2)
    assert list(outcome.results) == ["1"]
    assert outcome.failed == {"x": "RuntimeError: no memory left"}
    assert "x: left out" in capfd.readouterr().err


def test_memory_is_accounted_for_to_the_byte() -> None:
    mib = 2**20
    before = [torch.empty(7 * mib, dtype=torch.uint8)]

    def work() -> None:
        first = torch.empty(10 * mib, dtype=torch.uint8)
        second = torch.empty(5 * mib, dtype=torch.uint8)
        before.clear()  # what was there before is no part of it
        del first
        third = torch.empty(8 * mib, dtype=torch.uint8)
        del second, third

    assert memory.peak_bytes(work) == 15 * mib

    def inside_a_kernel() -> None:  # the sum's operand is a temporary of float64
        torch.ones(mib, dtype=torch.float32).double().sum()

    assert 12 * mib <= memory.peak_bytes(inside_a_kernel) < 12 * mib + 4096


def test_memory_of_gradients_follows_the_experts_in_use() -> None:
    dense = memory.prepare(TINY)()
    routed = memory.prepare(TINY.using("merge_st"))()
    assert routed[""] > dense[""] > dense[memory.GRADIENTS] > 0
    # two tasks use two of three experts: unused ones have no gradient
    assert 1.5 < routed[memory.GRADIENTS] / dense[memory.GRADIENTS] < 2.6


@pytest.mark.parametrize("scheme", ["exact", "mix"])
def test_the_all_experts_form_is_the_same_function(scheme: str) -> None:
    setting = replace(TINY, scheme=scheme)
    routed = models.routed(setting)
    with torch.no_grad():  # soft enough that the router has a gradient
        routed.task_vectors.mul_(0.2)
    published = models.AllExperts(routed)
    inputs = models.batch(setting).inputs
    figures = []
    for model in (routed.eval(), published.eval()):
        output = model(**inputs)
        output.loss.backward()
        figures.append((output.logits, model.task_vectors.grad))
    (logits, gradient), (their_logits, their_gradient) = figures
    torch.testing.assert_close(logits, their_logits, rtol=1e-4, atol=1e-6)
    assert gradient.abs().max() > 1e-9
    torch.testing.assert_close(
        gradient, their_gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())
    )


def test_routes_are_spread_and_survive_training() -> None:
    setting = replace(TINY, rows=8, tasks=8, num_experts=8, scheme="merge_st")
    model = models.routed(setting)
    experts = model.routes().argmax(-1)
    assert all(len(set(layer.tolist())) == 8 for layer in experts.T)
    model.train()
    engine = LocalEngine(model, TrainingConfig())
    for _ in range(12):
        engine.backward([models.batch(setting)])
        engine.update(engine.config.rates)
        engine.zero_gradients()
        drawn = model.route_weights().argmax(-1).T
        assert torch.equal(drawn, experts)


def test_generation_rows_and_the_check_of_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(replace(TINY, target=3), num_experts=[3], rounds=1)
    rows = {row.scheme: row for more in run_generation(options) for row in more}
    assert rows[generation.CHECK].absolute == 1
    assert {"dense", "mixed", "squeezed:beams4", "task_by_task:beams4"} <= set(rows)
    assert all(row.ratio is None or row.ratio > 0 for row in rows.values())
    # the check can fail: a squeezed model with other weights is noticed
    wrong = models.backbone(TINY)
    monkeypatch.setattr("moe_tasks.model.TaskMoE.squeeze", lambda model, task: wrong.eval())
    assert generation.prepare_check(TINY)() == {"": 0.0}


def test_model_flops_are_those_that_torch_counts() -> None:
    setting = replace(TINY, layers=2, source=16, ffn=48)
    inputs = {k: v for k, v in models.batch(setting).inputs.items() if k != "task_ids"}
    model = models.backbone(setting)
    model.set_attn_implementation("eager")  # the counter does not see inside the CPU's fused one
    with FlopCounterMode(display=False) as counter:
        model(**inputs, use_cache=False).loss.backward()  # type: ignore[operator]
    assert training_flops(setting) == counter.get_total_flops()


@pytest.mark.stress
@pytest.mark.parametrize("name", ["memory", "generation", "startup", "grid", "routes"])
def test_every_benchmark_runs(name: str, tmp_path: Path) -> None:
    arguments = ["--quick", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    assert main([name, *arguments]) == 0
    rows = read(tmp_path / f"{name}.csv")
    assert list(rows[0]) == COLUMNS
    assert (tmp_path / f"{name}.png").exists()
    if name == "routes":
        near = [row for row in rows if ":" not in row["scheme"]]
        assert {float(row["absolute"]) for row in near} == {100.0}
