"""Runs side by side, routes over seeds, two stages before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.report import write_report
from analysis.report.statistics import gather
from tests.analysis.folders import write_folder

SELECTION = {"name": "gumbel_st", "gradient": "merge_st"}


def run(path: Path, *, seed: int = 0, systems: dict[str, Any] | None = None) -> Path:
    """A run whose routes are planted; every system but ``moe`` gets routes of its own."""
    write_folder(path, hard=True, seed=seed)
    config = {
        "seed": seed,
        "tasks": {"split": 5},
        "router": {"name": "linear", "num_experts": 3},
        "selection": SELECTION,
        "task_vectors": {"name": "text"},
        "systems": {"moe": {}, **(systems or {})},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    for name in systems or {}:
        (path / "routes").mkdir(exist_ok=True)
        (path / "routes.parquet").rename(path / "routes" / f"{name}.parquet")
        write_folder(path.parent / f"{path.name}-{name}", hard=True, seed=seed + 50)
        (path.parent / f"{path.name}-{name}" / "routes.parquet").rename(path / "routes.parquet")
    return path


def statistics(*paths: Path) -> dict[str, Any]:
    return gather(list(paths), num_permutations=19).statistics


def test_designs_are_side_by_side(tmp_path: Path) -> None:
    other = {"router": {"name": "lstm"}, "selection": {"name": "softmax", "mode": "mix"}}
    found = statistics(run(tmp_path / "a", systems={"soft": other}), run(tmp_path / "b", seed=1))
    rows = {row["name"]: row for row in found["designs"]}
    assert list(rows) == ["a", "a: soft", "b"]
    assert (rows["a"]["router"], rows["a: soft"]["router"]) == ("linear", "lstm")
    assert rows["a"]["selection"] == "gumbel_st"
    assert rows["a: soft"]["selection"] == "softmax mix"
    assert [row["seed"] for row in rows.values()] == [0, 0, 1]
    assert {row["split"] for row in rows.values()} == {5}
    clusters = found["routes"]["b"]["clusters"]["category"]["overall"]
    assert rows["b"]["adjusted_rand_p"] == clusters["adjusted_rand"]["p_value"]
    scores = pd.read_csv(tmp_path / "b" / "train_scores.csv").groupby("system")["score"].mean()
    assert rows["b"]["train"] == pytest.approx(scores["moe"])


def test_routes_over_seeds(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(seed), seed=seed, systems={"soft": {}}) for seed in range(3)]
    found = statistics(*runs)
    assert [(row["system"], row["num_pairs"]) for row in found["stability"]] == [
        ("moe", 3), ("soft", 3),
    ]  # fmt: skip
    pairs = [p["matched"]["value"] for p in found["comparison"] if ":" not in p["a"] + p["b"]]
    assert len(pairs) == 3
    assert found["stability"][0]["in_common"] == pytest.approx(np.mean(pairs))
    assert found["stability"][0]["lowest"] == min(pairs)


def test_two_stages(tmp_path: Path) -> None:
    """The second stage scores .1 more on each unseen task, and its routes are others."""
    stages = {"second": {"routes_from": "moe", "selection": {"name": "softmax"}}}
    folder = run(tmp_path / "a", systems=stages)
    scores = pd.read_csv(folder / "scores.csv")
    after = scores[scores["system"] == "moe"].assign(system="second")
    after["score"] += 0.1
    pd.concat([scores, after]).to_csv(folder / "scores.csv", index=False)
    found = statistics(folder)
    (row,) = found["two_stages"]
    assert (row["before"], row["after"]) == ("a", "a: second")
    assert row["unseen"] == pytest.approx(0.1)
    assert row["unseen_interval"] == pytest.approx((0.1, 0.1))
    assert (row["up"], row["down"]) == (30, 0)
    assert row["train"] is None  # the second stage has no training scores
    tables = [
        pd.read_parquet(file).query("step == 200")
        for file in (folder / "routes.parquet", folder / "routes" / "second.parquet")
    ]
    apart = [table["weight"].to_numpy() for table in tables]
    assert row["moved"] == pytest.approx(np.abs(apart[0] - apart[1]).sum() / 2 / (30 * 4))
    assert found["designs"][1]["routes"] == "of moe"
    assert found["designs"][1]["router"] == "linear"
    text = write_report([folder], tmp_path / "out", "x", num_permutations=9).read_text()
    assert "Two stages: after minus before" in text
    assert "Route tables side by side" in text
