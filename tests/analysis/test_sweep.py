"""Tables of zero-shot evaluations, rebuilt from the cells' files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.sweep import main, write_sweep
from analysis.sweep_cells import read_sweep
from analysis.sweep_stats import compare, run_ratios, task_rows
from moe_tasks.errors import UserError

# system -> task -> template -> score by sum
SCORES: dict[str, dict[str, dict[str, float]]] = {
    "multitask": {"cb": {"a": 0.2, "b": 0.4, "c": 0.9}, "rte": {"a": 0.5}, "asdiv": {"a": 0.0}},
    "moe": {"cb": {"a": 0.3, "b": 0.6, "c": 0.9}, "rte": {"a": 0.25}, "asdiv": {"a": 0.1}},
}


def cell(root: Path, system: str, task: str, template: str, score: float, **facts: Any) -> Path:
    ranked = task != "asdiv"
    content = {
        "format": 1,
        "run": "run",
        "seed": 0,
        "system": system,
        "task": task,
        "template": template,
        "route": "auto",
        "selection": None,
        "source": "text" if system == "moe" else "none",
        "category": "nli" if ranked else "maths",
        "metric": "ACC" if ranked else "EM",
        "rows": 20,
        "chance": 1 / 3 if ranked else None,
        "majority": 0.5,
        "scores": {"sum": score, "mean": score / 2} if ranked else {"generated": score},
        **facts,
    }
    folder = root / str(content["run"]) / system / str(facts.get("route", "auto")) / task / template
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    for system, tasks in SCORES.items():
        for task, templates in tasks.items():
            for template, score in templates.items():
                cell(tmp_path, system, task, template, score)
    return tmp_path


def test_a_row_per_task_and_system(cells: Path) -> None:
    rows = {(r.label, r.task): r for r in task_rows(read_sweep([cells]).cells, "sum")}
    assert len(rows) == 6
    row = rows["multitask", "cb"]
    assert row.mean == pytest.approx(0.5)
    assert row.median == pytest.approx(0.4)
    assert (row.lowest, row.highest) == (0.2, 0.9)
    assert row.deviation == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1))
    assert row.other_mean == pytest.approx(0.25)
    assert (row.chance, row.majority) == (pytest.approx(1 / 3), 0.5)
    assert rows["moe (text)", "asdiv"].other_mean is None
    assert rows["moe (text)", "asdiv"].deviation == 0.0


def test_the_other_way_of_ranking(cells: Path) -> None:
    rows = {(r.label, r.task): r for r in task_rows(read_sweep([cells]).cells, "mean")}
    assert rows["multitask", "cb"].mean == pytest.approx(0.25)
    assert rows["multitask", "cb"].other_mean == pytest.approx(0.5)
    assert rows["moe (text)", "asdiv"].mean == pytest.approx(0.1)


def test_paired_difference_weighs_tasks_alike(cells: Path) -> None:
    found = compare(read_sweep([cells]).cells, "moe (text)", "multitask", "sum")
    assert found is not None
    new, base = (0.6 + 0.25 + 0.1) / 3, (0.5 + 0.5 + 0.0) / 3
    assert found.difference == pytest.approx(new - base)
    assert found.ratio == pytest.approx(new / base - 1)
    assert found.average_relative_gain == pytest.approx(((0.6 / 0.5 - 1) + (0.25 / 0.5 - 1)) / 2)
    assert (found.num_tasks, found.num_pairs) == (3, 5)
    assert (found.num_up, found.num_down) == (2, 1)


def test_only_what_both_were_asked_is_compared(cells: Path) -> None:
    cell(cells, "moe", "more", "a", 1.0)
    (cells / "run" / "moe" / "auto" / "cb" / "c" / "result.json").unlink()
    found = compare(read_sweep([cells]).cells, "moe (text)", "multitask", "sum")
    assert found is not None
    assert (found.num_tasks, found.num_pairs) == (3, 4)
    assert found.difference == pytest.approx((0.45 + 0.25 + 0.1) / 3 - (0.3 + 0.5 + 0.0) / 3)


def test_the_interval_covers_a_true_difference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(40):
        for task in range(12):
            own = rng.normal(0.05, 0.04)  # tasks differ in what the system gains
            for template in ("a", "b", "c"):
                base = rng.uniform(0.3, 0.6)
                gained = base + own + rng.normal(0, 0.02)
                root = tmp_path / str(trial)
                cell(root, "multitask", f"t{task}", template, base)
                cell(root, "moe", f"t{task}", template, gained)
        found = compare(read_sweep([tmp_path / str(trial)]).cells, "moe (text)", "multitask", "sum")
        assert found is not None
        assert found.interval is not None
        covered += found.interval[0] <= 0.05 <= found.interval[1]
    assert covered >= 32


def test_runs_are_paired_with_themselves(cells: Path) -> None:
    for system, score in (("multitask", 0.1), ("moe", 0.9)):
        cell(cells, system, "rte", "a", score, run="other", seed=1)
    found = compare(read_sweep([cells]).cells, "moe (text)", "multitask", "sum")
    assert found is not None
    assert found.num_pairs == 6
    rte = ((0.25 - 0.5) + (0.9 - 0.1)) / 2
    assert found.difference == pytest.approx((0.1 + rte + 0.1) / 3)


def test_gain_of_every_run_and_over_runs(cells: Path, tmp_path: Path) -> None:
    for seed, gained in ((1, 0.6), (2, 0.75)):  # a sweep elsewhere numbers its runs alike
        for system, score in (("multitask", 0.5), ("moe", gained)):
            cell(cells / str(seed), system, "rte", "a", score, seed=seed)
    sweep = read_sweep([cells])
    assert sweep.runs == ["run, seed 0", "run, seed 1", "run, seed 2"]
    first = (0.6 + 0.25 + 0.1) / (0.5 + 0.5 + 0.0) - 1
    ratios = run_ratios(sweep.cells, "moe (text)", "multitask", "sum")
    assert list(ratios.values()) == pytest.approx([first, 0.2, 0.5])
    mean = np.mean([first, 0.2, 0.5])
    half = 4.30265 * np.std([first, 0.2, 0.5], ddof=1) / 3**0.5  # t, two degrees of freedom
    line = f"| moe (text) | -5.0 | +20.0 | +50.0 | {100 * mean:+.1f} | "
    line += f"{100 * (mean - half):+.1f} to {100 * (mean + half):+.1f} | 2 of 3 |"
    assert line in write_sweep([cells], tmp_path / "out")


def test_files_are_rebuilt_from_the_cells_alone(cells: Path, tmp_path: Path) -> None:
    first = write_sweep([cells], tmp_path / "one")
    second = write_sweep([cells], tmp_path / "two")
    assert first == second == (tmp_path / "one" / "sweep.md").read_text()
    table = pd.read_csv(tmp_path / "one" / "table.csv")
    assert len(table) == 6
    assert set(table["label"]) == {"multitask", "moe (text)"}
    assert (tmp_path / "one" / "sweep.png").stat().st_size > 5000
    assert "| cb | nli | ACC | 3 | 0.500 ± 0.361 (0.400; 0.200 to 0.900) |" in first
    assert "| chance | 2 | 0.333 |" in first


def test_failed_cells_are_listed(cells: Path) -> None:
    folder = cells / "run" / "moe" / "inputs" / "cb" / "a"
    folder.mkdir(parents=True)
    facts = {"system": "moe", "route": "inputs", "task": "cb", "template": "a", "error": "no [way]"}
    (folder / "error.json").write_text(json.dumps(facts))
    (cells / "run" / "moe" / "auto" / "rte" / "a" / "result.json").write_text("{half")
    text = write_sweep([cells], cells)
    assert "Failed or left out (2)" in text
    assert "system moe, route inputs, task cb, template a: no \\[way\\]" in text
    assert "not readable" in text


def test_of_two_equal_cells_the_newer_counts(cells: Path) -> None:
    newer = cell(cells, "multitask", "rte", "a", 0.75, route="again", source="none")
    old = cells / "run" / "multitask" / "auto" / "rte" / "a" / "result.json"
    os.utime(old, (1, 1))
    rows = {(r.label, r.task): r for r in task_rows(read_sweep([cells]).cells, "sum")}
    assert rows["multitask", "rte"].mean == 0.75
    assert any(str(newer) in reason for _, reason in read_sweep([cells]).failed)
    cell(cells, "multitask", "rte", "a", 0.75, route="third", source="none")
    (newer / "result.json").unlink()
    os.utime(old, None)
    old.write_text(old.read_text().replace("0.5,", "0.75,").replace("0.25", "0.375"))
    assert not read_sweep([cells]).failed  # the same scores


def test_labels_tell_routes_and_selections_apart(tmp_path: Path) -> None:
    cell(tmp_path, "moe", "t", "a", 0.1)
    cell(tmp_path, "moe", "t", "a", 0.2, route="nearest", source="nearest")
    cell(tmp_path, "moe", "t", "a", 0.3, route="x", source="text", selection={"name": "softmax"})
    assert set(read_sweep([tmp_path]).labels) == {
        "moe (text)",
        "moe (nearest)",
        "moe (text, softmax)",
    }


def test_a_base_of_ones_own(cells: Path, tmp_path: Path) -> None:
    text = write_sweep([cells], tmp_path / "out", base="moe (text)")
    assert "| multitask | moe (text) | 3 |" in text
    with pytest.raises(UserError, match="no system 'moe' in these cells; valid: moe"):
        write_sweep([cells], tmp_path / "out", base="moe")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_nothing_to_gather(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([folder, "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith("error: no ")
    assert not (tmp_path / "out").exists()


def test_torch_is_not_needed(cells: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from analysis.sweep import main\n"
        f"assert main([{str(cells)!r}]) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
