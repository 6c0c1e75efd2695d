"""A study of seeds and splits: nothing pooled or dropped unawares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.study import main
from analysis.study_runs import gather
from analysis.study_table import study_markdown
from moe_tasks.errors import UserError
from moe_tasks.evaluation.gain import relative_gain
from tests.analysis.tables import score_table, write_run

EFFECTS = {"direct": -0.2, "multitask": 0.0, "moe": 0.1, "moe_untrained": -0.03}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seeds 1-3 on split a, seeds 1-2 on split b."""
    for split, seeds in (("a", (1, 2, 3)), ("b", (1, 2))):
        for seed in seeds:
            scores = score_table(EFFECTS, seed=seed + 10 * (split == "b"))
            write_run(tmp_path / "study" / f"{split}{seed}", scores, seed=seed, split=split)
    return tmp_path / "study"


def test_rows(folder: Path) -> None:
    study = gather(folder)
    assert len(study.rows) == 5 * 4
    assert study.incomplete == study.notes == []
    row = next(r for r in study.rows if r.runs == ("b2",) and r.system == "moe")
    assert (row.seed, row.split, row.num_tasks) == ("2", "b", 12)
    scores = pd.read_csv(folder / "b2" / "scores.csv", dtype={"sample": str})
    gain = relative_gain(scores.to_dict("records"), "moe", "multitask", num_bootstrap=0)
    assert row.ratio == pytest.approx(100 * gain.gain_of_mean)
    assert row.average_relative_gain == pytest.approx(100 * gain.average)
    of_moe = scores[scores["system"] == "moe"]
    assert row.unseen_score == pytest.approx(of_moe.groupby("task")["score"].mean().mean())
    assert row.train_score == pytest.approx(of_moe.drop_duplicates("task")["score"].mean())
    assert row.agreement["cluster_nmi"].p_value == pytest.approx(1 / 1001)
    untrained = [r for r in study.rows if r.system == "moe_untrained"]
    assert np.median([r.agreement["cluster_nmi"].p_value for r in untrained]) > 0.05
    base = next(r for r in study.rows if r.system == "multitask")
    assert base.ratio is None
    assert base.agreement == {}


def test_files_and_tables(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "study.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "study.csv")
    assert len(table) == 20
    ratios = table[table["system"] == "moe"]["ratio_percent"]
    line = next(li for li in text.splitlines() if li.startswith("| moe | 5 |"))
    assert f"{ratios.mean():+.1f}" in line
    assert "5 of 5" in line
    assert "5 runs; seeds 1, 2, 3; splits a, b; 12 unseen tasks; base multitask." in text
    assert (
        "| system | a / 1 | a / 2 | a / 3 | b / 1 | b / 2 | mean, split a | mean, split b |" in text
    )
    assert (tmp_path / "out" / "study.png").stat().st_size > 5000
    assert not (folder / "study.md").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "study.csv",
        "study.md",
        "study.png",
    ]


def test_incomplete_runs_are_listed(folder: Path) -> None:
    (folder / "a1" / "scores.csv").unlink()
    (folder / "a2" / "config.yaml").write_text("seed: [", encoding="utf-8")
    (folder / "killed" / ".hydra").mkdir(parents=True)
    scores = pd.read_csv(folder / "a3" / "scores.csv", dtype=str)
    scores = scores[scores["system"] != "direct"]
    scores.loc[(scores["system"] == "moe") & (scores["task"] == "new_0"), "score"] = ""
    scores.to_csv(folder / "a3" / "scores.csv", index=False)
    study = gather(folder)
    listed = dict(study.incomplete)
    assert listed["a1"] == "scores.csv is missing: the run has not finished"
    assert listed["killed"] == "config.yaml is missing: the run has not finished"
    assert "no valid YAML" in listed["a2"]
    of_a3 = [reason for run, reason in study.incomplete if run == "a3"]
    assert of_a3 == [
        "moe has no test score on 1 of 12 unseen tasks: new_0",
        "no scores of direct",
    ]
    text = study_markdown(study)
    assert all(f"- {run}: " in text for run in ("a1", "a2", "a3", "killed"))
    assert {row.runs for row in study.rows} == {("a3",), ("b1",), ("b2",)}


def test_run_without_the_base_has_no_ratio(folder: Path) -> None:
    scores = pd.read_csv(folder / "a1" / "scores.csv", dtype=str)
    scores[scores["system"] != "multitask"].to_csv(folder / "a1" / "scores.csv", index=False)
    study = gather(folder)
    assert ("a1", "no scores of multitask") in study.incomplete
    row = next(r for r in study.rows if r.runs == ("a1",) and r.system == "moe")
    assert row.ratio is None
    assert row.unseen_score is not None


def test_repeated_seed_and_split_count_once(folder: Path) -> None:
    write_run(folder / "a1_again", score_table(EFFECTS, seed=99), seed=1, split="a")
    study = gather(folder)
    assert ("a1",) not in {row.runs for row in study.rows}
    assert study.incomplete == [
        ("a1", "left out: a1_again has the same setting, seed and split and comes later")
    ]


def test_control_has_its_own_base(tmp_path: Path) -> None:
    effects = {"multitask": 0.0, "multitask_2x": 0.2, "moe": 0.1, "moe_2x": 0.2}
    write_run(tmp_path / "run", score_table(effects))
    ratios = {row.label: row.ratio for row in gather(tmp_path).rows}
    assert ratios["moe_2x"] == pytest.approx(20, abs=2)
    assert ratios["moe_2x over multitask_2x"] == pytest.approx(0, abs=2)
    assert "moe over multitask_2x" not in ratios


def test_settings_can_go_to_separate_tables(folder: Path) -> None:
    config = {"router": {"num_experts": 5}}
    for seed in (4, 5):
        write_run(folder / f"m5_{seed}", score_table(EFFECTS, seed=seed), seed=seed, **config)
    assert {"moe", "moe: num_experts=5"} <= {row.label for row in gather(folder).rows}
    study = gather(folder, by=["router.num_experts"])
    assert study.notes == []
    assert {row.group for row in study.rows} == {"router.num_experts=?", "router.num_experts=5"}
    text = study_markdown(study)
    # Once in the table of scores, once in that of routes.
    assert text.count("| moe | 5 |") == text.count("| moe | 2 |") == 2


def test_one_run(folder: Path) -> None:
    text = study_markdown(gather(folder / "a1"))
    assert "1 run; seeds 1" in text
    assert "1 of 1" in text


def test_wrong_use(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "stopped" / "0" / ".hydra").mkdir(parents=True)
    for arguments, words in (
        ([str(tmp_path / "absent")], "no folder"),
        ([str(tmp_path / "empty")], "no run folders below"),
        ([str(tmp_path / "stopped")], "none of 1 runs"),
        ([str(folder), "--base", "multitsk"], "did you mean 'multitask'"),
        ([str(folder), "--by", "sed"], "did you mean 'seed'"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error
        assert len(error.splitlines()) == 1
    with pytest.raises(UserError):
        gather(tmp_path / "absent")


def test_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("DIR", "--out", "--base", "--by", "study.md", "example:"))
