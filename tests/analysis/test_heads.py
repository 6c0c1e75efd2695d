"""Tables of encoders with heads, from run folders alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from analysis import style
from analysis.heads import average, gather, main, table
from analysis.scores_figure import scores_figure
from moe_tasks.errors import UserError

TASKS = ("cola", "mnli", "mnli-mm", "wnli")


def write_run(folder: Path, seed: int, systems: dict[str, float]) -> Path:
    """Every task of a system scores its number, plus a hundredth per place in the list."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed: {seed}\n")
    lines = ["system,task,category,sample,split,metric,score"]
    lines += [
        f"{system},{task},nli,,dev,ACC,{score + place / 100}"
        for system, score in systems.items()
        for place, task in enumerate(TASKS)
    ]
    (folder / "train_scores.csv").write_text("\n".join(lines) + "\n")
    cost = {
        "parameters": 120,
        "trained": 40,
        "steps": 10,
        "drawn": {"cola": 8},
        "used": {"cola": 4},
    }
    facts = {"encoder": 100, "systems": dict.fromkeys(systems, cost)}
    (folder / "systems.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for seed, gain in ((1, 0.1), (2, 0.3), (3, 0.2)):
        write_run(tmp_path / f"a{seed}", seed, {"multitask": 0.5, "camtl": 0.5 + gain})
    write_run(tmp_path / "deep" / "single-1", 1, {"single": 0.6})
    return tmp_path


def cells(study: Path, system: str) -> dict[str, str]:
    grid = table(gather([study]), "multitask")
    place = grid.systems.index(system)
    return {texts[0]: row[place] for texts, row in grid.rows}


def test_runs_of_a_seed_are_read_as_one(study: Path) -> None:
    single, camtl = cells(study, "single"), cells(study, "camtl")
    assert (single["seeds"], camtl["seeds"]) == ("1", "3")
    assert camtl["mnli"] == "0.710"
    assert single["over the base"] == "+0.100"
    assert camtl["parameters / encoder"] == "1.20"
    assert camtl["trained / encoder"] == "0.40"
    assert camtl["of rows drawn"] == "0.50"


def test_an_average_by_one_metric_each_where_runs_have_them(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2, 3):
        file = study / f"a{seed}" / "systems.json"
        facts = json.loads(file.read_text())
        facts["parts"] = [["camtl", "cola", "ACC", 1.0], ["camtl", "cola", "F1-of-1", 0.2],
                          ["multitask", "cola", "ACC", 0.0]]  # fmt: skip
        file.write_text(json.dumps(facts))
    name = "... by ACC and Pearson"
    mnli = np.mean([0.61, 0.81, 0.71]) + 0.005  # of both dev sets
    assert cells(study, "camtl")[name] == f"{(1.0 + mnli) / 2:.3f}"
    assert cells(study, "multitask")[name] == f"{(0.0 + 0.515) / 2:.3f}"
    assert cells(study, "single")[name] == ""  # an older run
    assert main([str(study), "--one-metric"]) == 2
    assert "system 'single' with seed 1" in capsys.readouterr().err
    for seed in (1, 2, 3):
        assert main([str(study / f"a{seed}"), "--one-metric"]) == 0
        assert "| cola | | 0.000 | 1.000 |" in " ".join(capsys.readouterr().out.split())


def test_differences_have_the_interval_of_paired_seeds(study: Path) -> None:
    gains = np.array([0.1, 0.3, 0.2])
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert cells(study, "camtl")["over the base"] == f"+0.200 ({low:+.3f} to {high:+.3f})"
    assert cells(study, "multitask")["over the base"] == ""


def test_the_average_joins_mnli_and_leaves_wnli_out() -> None:
    scores = {"cola": 0.2, "mnli": 0.5, "mnli-mm": 0.7, "wnli": 1.0}
    assert average(scores) == pytest.approx(0.4)


def test_the_command_writes_both_files(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = study / "tables"
    assert main([str(study), "--base", "single", "--out", str(out)]) == 0
    assert "| camtl" in capsys.readouterr().out.replace("|  ", "| ")
    assert (out / "heads.png").stat().st_size > 10_000
    rows = list(csv.DictReader((out / "heads.csv").open()))
    assert len(rows) == 7 * len(TASKS)
    assert "average without wnli" in (out / "heads.md").read_text()


def test_the_picture_has_every_score_and_each_tasks_best_in_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, _: drawn.append(figure))
    scores = {"one $": {"a": 0.25, "b": 0.5}, "two": {"a": 0.75}}
    averages = {"one $": [0.3, 0.5], "two": [0.75]}
    scores_figure(scores, averages, tmp_path / "x.png", title="t")
    table, side = drawn[0].axes
    cells = {text.get_text(): text.get_fontweight() for text in table.texts}
    assert cells == {"0.25": "normal", "0.50": "normal", "0.75": "bold"}
    assert [text.get_text() for text in table.get_yticklabels()] == ["one $", "two"]
    assert [text.get_text() for text in side.texts] == ["0.400", "0.750"]
    dots = [line.get_xdata() for line in side.lines if line.get_marker() == "o"]
    assert [list(found) for found in dots] == [[0.3, 0.5]]


def test_without_a_multi_task_model_the_first_system_is_the_base(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study / "deep")]) == 0
    assert "differences from single" in capsys.readouterr().out


def test_mistakes(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(study), "--base", "multitaks"]) == 2
    assert "multitask" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err
    write_run(tmp_path / "again", 1, {"camtl": 0.1})
    with pytest.raises(UserError, match="twice with seed 1"):
        gather([study])
    empty = tmp_path / "tables" / "x"
    empty.mkdir(parents=True)
    with pytest.raises(UserError, match="no finished run"):
        gather([empty])
