"""Run folders become frames; broken ones become one clear message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_run
from analysis.output import write_text
from analysis.routes import snapshot
from analysis.runs import ABLATION_COLUMNS, ROUTE_COLUMNS, find_runs
from moe_tasks.errors import UserError
from moe_tasks.evaluation.gain import gain_json, relative_gain
from tests.analysis.folders import write_folder
from tests.analysis.tables import route_table, score_table, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    scores = score_table({"multitask": 0.0, "moe": 0.1})
    scores.loc[0, "score"] = np.nan
    scores["task"] = scores["task"].replace("new_1", "NA")
    return write_run(tmp_path / "run", scores, seed=13)


def test_frames(run: Path) -> None:
    loaded = load_run(run)
    assert loaded.name == "run"
    assert loaded.config["tasks"]["split"] == "a"
    assert set(loaded.scores["sample"]) == {"100", "13"}
    assert loaded.scores["score"].isna().sum() == 1
    assert "NA" in set(loaded.scores["task"])
    assert set(loaded.train_scores["sample"]) == {""}
    assert set(loaded.routes) == {"moe", "moe_untrained"}
    pd.testing.assert_frame_equal(
        loaded.routes["moe"], route_table(2.0, seed=13), check_dtype=False
    )
    assert loaded.gains == {}
    assert loaded.missing == ("gain.json",)


def test_gains(run: Path) -> None:
    rows = load_run(run).scores.to_dict("records")
    gain = relative_gain(rows, "moe", "multitask", num_bootstrap=10)
    (run / "gain.json").write_text(json.dumps(gain_json([gain])), encoding="utf-8")
    assert load_run(run).gains == {"moe_over_multitask": gain}


def test_run_without_routes_or_scores_loads(run: Path) -> None:
    (run / "routes.parquet").unlink()
    (run / "routes" / "moe_untrained.parquet").unlink()
    assert load_run(run).routes == {}
    (run / "scores.csv").rename(run.parent / "scores.csv")
    with pytest.raises(UserError, match=r"lacks scores\.csv, gain\.json, routes\.parquet"):
        load_run(run)
    route_table(1.0).to_parquet(run / "routes.parquet")
    assert load_run(run).scores.empty


def test_no_run(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        load_run(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is no run folder: it lacks config\.yaml, scores\.csv"):
        load_run(tmp_path / "empty")
    with pytest.raises(UserError, match=r"python -m analysis\.study"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("scores.csv", "system,task\nmoe,a\n", "scores.csv: no column category, metric"),
        (
            "scores.csv",
            "system,task,category,sample,split,metric,score\nmoe,a,c,1,test,EM,0.5\n"
            "moe,b,c,1,test,EM,high\n",
            "scores.csv: line 3: score 'high' is no number",
        ),
        ("scores.csv", "", "scores.csv: "),
        ("config.yaml", "a: [1", "config.yaml: no valid YAML"),
        ("config.yaml", "- 1", "config.yaml: expected keys and values"),
        ("config.yaml", "!!python/object/apply:os.getcwd []", "config.yaml: no valid YAML"),
        ("gain.json", "{", "gain.json: "),
        ("gain.json", '{"a_over_b": {"system": 1}}', "gain.json: missing key 'a_over_b.base'"),
        ("routes.parquet", "not parquet", "routes.parquet: "),
        ("routes/other.parquet", "not parquet", "other.parquet: "),
    ],
)
def test_broken_files_are_named(run: Path, file: str, content: str, words: str) -> None:
    (run / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)


def test_routes_without_a_column(run: Path) -> None:
    route_table(1.0).drop(columns="layer").to_parquet(run / "routes.parquet")
    with pytest.raises(UserError, match=r"routes\.parquet: no column layer"):
        load_run(run)


def test_find_runs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "killed" / ".hydra").mkdir(parents=True)
    (tmp_path / "killed" / ".hydra" / "config.yaml").write_text("a: 1")
    (run / "wandb" / "files").mkdir(parents=True)
    (run / "wandb" / "files" / "config.yaml").write_text("a: 1")
    (tmp_path / "notes").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "killed", run]
    assert find_runs(run) == [run]


def test_snapshot_orders_stacks_and_picks_steps() -> None:
    table = pd.concat([route_table(1.0, step=0, seed=1), route_table(1.0, step=50, seed=2)])
    shuffled = table.sample(frac=1, random_state=0)
    last = snapshot(shuffled)
    assert last.step == 50
    assert [(at.stack, at.layer) for at in last.layers] == [
        ("encoder", 0),
        ("encoder", 1),
        ("decoder", 0),
        ("decoder", 1),
    ]
    row = last.tasks["task"].tolist().index("task_7")
    expected = table[(table["step"] == 50) & (table["task"] == "task_7")]["weight"]
    np.testing.assert_array_equal(last.weights[row], expected)
    assert snapshot(table, 0).step == 0
    with pytest.raises(UserError, match="no routes at step 7; valid: 0, 50"):
        snapshot(table, 7)


def test_snapshot_refuses_holes_and_repeats() -> None:
    table = route_table(1.0)
    with pytest.raises(UserError, match="no weight for task 'task_0', encoder layer 0 expert 1"):
        snapshot(table.drop(index=1))
    with pytest.raises(UserError, match="two weights for task 'task_0', encoder layer 0 expert 1"):
        snapshot(pd.concat([table, table.iloc[1:2]]))
    with pytest.raises(UserError, match="empty"):
        snapshot(table.iloc[:0])


def test_distances_are_mean_total_variation() -> None:
    table = route_table(0.0, num_tasks=2, num_categories=1, num_layers=1, num_experts=2)
    table["weight"] = [1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 0.25, 0.75]
    assert snapshot(table).distances[0, 1] == pytest.approx((1.0 + 0.25) / 2)


def test_layers_of_different_width_and_number() -> None:
    table = route_table(1.0, num_layers=3)
    table = table[~((table["stack"] == "encoder") & (table["layer"] == 1))]
    table = table[~((table["stack"] == "decoder") & (table["expert"] == 2))]
    assert [(at.layer, at.columns) for at in snapshot(table).layers] == [
        (0, slice(0, 3)),
        (2, slice(3, 6)),
        (0, slice(6, 8)),
        (1, slice(8, 10)),
        (2, slice(10, 12)),
    ]


def test_writing_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.md", "first")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "a.md", "x")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new" / "a.md", "\ud800")
    assert (tmp_path / "new" / "a.md").read_text() == "first"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.md"]


def test_analysis_imports_no_torch() -> None:
    code = (
        "import sys, analysis, analysis.study, analysis.figures, analysis.agreement\n"
        "import analysis.report.__main__\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_everything_as_tidy_frames(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", hard=True, ablation=True)
    line = '{"system": "moe", "step": 1, "loss": 0.5}\n'
    (folder / "train.jsonl").write_text(line + '{"system": "moe", "st')
    loaded = load_run(folder)
    assert set(loaded.route_table.columns) == {"system", *ROUTE_COLUMNS}
    assert len(loaded.route_table) == 3 * 30 * 4 * 3
    assert loaded.training.to_dict("records") == [{"system": "moe", "step": 1, "loss": 0.5}]
    assert loaded.facts.loc["task_3", "extractive"] is True
    assert set(ABLATION_COLUMNS) == set(loaded.ablation.columns)
    rows = loaded.train_scores.to_dict("records")
    gain = relative_gain(rows, "moe", "multitask", num_bootstrap=0)
    (folder / "gain.json").write_text(json.dumps(gain_json([gain])), encoding="utf-8")
    table = load_run(folder).gain_table
    assert len(table) == 30
    assert (table["new"] > table["old"]).all()
    (folder / "ablation" / "moe.jsonl").write_text('{"system": "moe"}\n')
    with pytest.raises(UserError, match=r"moe\.jsonl: no base, category"):
        load_run(folder)
    (folder / "ablation" / "moe.jsonl").write_text('{"a": 1\n{"b": 2}\n')
    with pytest.raises(UserError, match=r"moe\.jsonl: line 1"):
        load_run(folder)
