"""Planted structure is found, half of it half, none not; numbers equal scikit-learn and scipy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.cluster import AgglomerativeClustering
from sklearn.neighbors import NearestNeighbors

from analysis import load_run, partitions
from analysis.permutation import permuted_labels
from analysis.report.association import association
from analysis.report.clusters import (
    STATISTICS,
    cluster_statistics,
    vector_distances,
)
from analysis.report.dropping import dropping
from analysis.report.load import load_statistics
from analysis.report.matching import comparison
from analysis.report.movement import movement
from analysis.report.similarity import mantel, parameter_distances, similarity
from analysis.report.statistics import gather
from analysis.report.subject import Subject, subjects_of
from tests.analysis.folders import write_folder
from tests.analysis.tables import shot


def subject(path: Path, **options: object) -> Subject:
    found, _ = subjects_of(load_run(write_folder(path, **options)), path.name)  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize("hard", [False, True])
def test_planted_structure_is_found_half_found_not_found(tmp_path: Path, hard: bool) -> None:
    found = {}
    for planted in (0.0, 0.5, 1.0):
        options = {"planted": planted, "hard": hard, "num_layers": 6, "extractive_logit": 0.0}
        routes = subject(tmp_path / str(planted), **options).last
        found[planted] = cluster_statistics(routes, None)["category"]["overall"]
    for name in STATISTICS:
        values = [found[planted][name]["value"] for planted in (0.0, 0.5, 1.0)]
        assert values == sorted(values), name
        assert found[1.0][name]["p_value"] == pytest.approx(1 / 1001)
        assert found[0.5][name]["p_value"] < 0.01
        assert found[0.0][name]["p_value"] > 0.05
    rand = [found[planted]["adjusted_rand"]["value"] for planted in (0.0, 0.5, 1.0)]
    assert rand[0] < 0.1 < rand[1] < 0.7
    assert rand[2] > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_cluster_measures_equal_scikit_learn(seed: int) -> None:
    routes = shot(0.7, seed=seed)
    found = cluster_statistics(routes, None, num_permutations=5)["category"]
    labels = pd.factorize(routes.tasks["category"])[0]
    for unit, part in (("overall", routes), ("decoder.1", routes.part(routes.layers[3:]))):
        distances = part.distances
        clusters = AgglomerativeClustering(5, metric="precomputed", linkage="average")
        predicted = clusters.fit_predict(distances)
        nearest = NearestNeighbors(n_neighbors=1, metric="precomputed").fit(distances)
        neighbour = nearest.kneighbors(return_distance=False)[:, 0]
        expected = {
            "adjusted_rand": metrics.adjusted_rand_score(labels, predicted),
            "normalized_mutual_information": metrics.normalized_mutual_info_score(
                labels, predicted
            ),
            "silhouette": metrics.silhouette_score(distances, labels, metric="precomputed"),
            "neighbour_accuracy": (labels == labels[neighbour]).mean(),
        }
        for name, value in expected.items():
            assert found[unit][name]["value"] == pytest.approx(value, abs=1e-9), (unit, name)


def test_every_permutation_equals_scikit_learn() -> None:
    """Not only the true labelling: the null distribution, too."""
    rng = np.random.default_rng(0)
    labels = np.array([0] * 7 + [1] * 4 + [2] * 3 + [3])
    points = rng.normal(size=(15, 4))
    distances = metrics.pairwise_distances(points)
    draws = permuted_labels(labels, 20, rng)
    clusters = rng.integers(3, size=(2, 15))
    nmi, rand = partitions.nmi(clusters, draws), partitions.adjusted_rand(clusters, draws)
    silhouette = partitions.silhouette(distances)(draws)[:, 0]
    for n, drawn in enumerate(draws):
        for k, row in enumerate(clusters):
            assert nmi[n, k] == pytest.approx(metrics.normalized_mutual_info_score(drawn, row))
            assert rand[n, k] == pytest.approx(metrics.adjusted_rand_score(drawn, row))
        expected = metrics.silhouette_score(distances, drawn, metric="precomputed")
        assert silhouette[n] == pytest.approx(expected)


def facts_of(rng: np.random.Generator, tasks: list[str]) -> pd.DataFrame:
    columns = {
        "extractive": [bool(x) for x in rng.random(len(tasks)) < 0.4],
        "output_words": rng.integers(1, 9, len(tasks)).astype(float).tolist(),
    }
    return pd.DataFrame(columns, index=pd.Index(tasks, name="task")).astype(object)


def test_association_equals_scipy() -> None:
    routes = shot(1.0, num_tasks=40)
    facts = facts_of(np.random.default_rng(1), routes.tasks["task"].tolist())
    found = association(routes, facts, num_permutations=4999)
    assert found["num_pairs"] == 2 * 12
    pairs = found["pairs"]
    expected_q = stats.false_discovery_control([pair["p_value"] for pair in pairs])
    assert [pair["q_value"] for pair in pairs] == pytest.approx(expected_q.tolist())
    columns = [(at.stack, at.layer, e) for at in routes.layers for e in range(at.num_experts)]
    for pair in pairs:
        x = routes.weights[:, columns.index((pair["stack"], pair["layer"], pair["expert"]))]
        y = facts[pair["feature"]].astype(float).to_numpy()
        oracle = stats.pointbiserialr(y, x) if set(y) <= {0, 1} else stats.spearmanr(y, x)
        assert pair["r"] == pytest.approx(oracle[0], abs=1e-9)
        assert pair["p_value"] == pytest.approx(oracle[1], abs=0.035)
        assert pair["low"] < pair["r"] < pair["high"]


def test_bootstrap_interval_equals_resampling() -> None:
    routes = shot(1.0, num_tasks=40)
    facts = facts_of(np.random.default_rng(1), routes.tasks["task"].tolist())
    found = association(routes, facts, num_permutations=1, num_bootstrap=4000)
    pair = next(p for p in found["pairs"] if p["feature"] == "extractive")
    columns = [(at.stack, at.layer, e) for at in routes.layers for e in range(at.num_experts)]
    x = routes.weights[:, columns.index((pair["stack"], pair["layer"], pair["expert"]))]
    y = facts["extractive"].astype(float).to_numpy()
    rng = np.random.default_rng(3)
    drawn = [rng.integers(40, size=40) for _ in range(4000)]
    r = [np.corrcoef(x[rows], y[rows])[0, 1] for rows in drawn]
    assert [pair["low"], pair["high"]] == pytest.approx(np.percentile(r, [2.5, 97.5]), abs=0.03)


def test_association_is_found_and_said(tmp_path: Path) -> None:
    found_in = subject(tmp_path / "run")
    found = association(found_in.last, found_in.facts, num_permutations=2999)
    assert found["left_out"] == {"constant": "the same for all tasks"}
    assert "language=de" in found["features"]
    best = next(p for p in found["pairs"] if p["feature"] == "extractive" and p["r"] > 0)
    assert (best["stack"], best["layer"], best["expert"]) == ("decoder", 0, 0)
    assert best["q_value"] < 0.05
    assert best["difference"] > 0.2
    sentence = f"decoder layer 0 expert 0 goes with extractive tasks: r = {best['r']:.2f}"
    assert sentence in found["in_words"]


def test_load_equals_scipy() -> None:
    routes = shot(1.0)
    rows = load_statistics(routes)
    for at, row in zip(routes.layers, rows, strict=True):
        weights = routes.weights[:, at.columns]
        route = np.mean([stats.entropy(w, base=3) for w in weights])
        assert row["route_entropy"] == pytest.approx(route)
        assert row["load_entropy"] == pytest.approx(stats.entropy(weights.mean(0), base=3))
        assert sum(row["load"]) == pytest.approx(1)


def test_one_expert_used_by_all() -> None:
    routes = shot(1.0, num_experts=2)
    routes.weights[:, 0], routes.weights[:, 1] = 1.0, 0.0
    row = load_statistics(routes)[0]
    assert (row["route_entropy"], row["load_entropy"], row["unused_experts"]) == (0, 0, [1])


def test_movement_is_mean_total_variation(tmp_path: Path) -> None:
    rows = movement(subject(tmp_path / "run", num_steps=4).shots, num_permutations=20)
    assert [row["step"] for row in rows] == [0, 100, 200, 300]
    assert rows[0]["from_previous"] is None
    assert rows[-1]["to_last"] == 0
    assert rows[0]["to_last"] == rows[-1]["from_first"] > 0
    assert np.mean(list(rows[1]["by_layer"].values())) == pytest.approx(rows[1]["from_previous"])
    assert rows[-1]["similarity_gap"]["value"] > rows[0]["similarity_gap"]["value"]


def test_mantel_equals_scipy_and_finds_itself() -> None:
    a, b = (np.random.default_rng(s).normal(size=(20, 3)) for s in (0, 1))
    first, second = metrics.pairwise_distances(a), metrics.pairwise_distances(b)
    upper = np.triu_indices(20, 1)
    found = mantel(first, second)
    assert found.value == pytest.approx(stats.spearmanr(first[upper], second[upper])[0])
    assert found.p_value is not None
    assert found.p_value > 0.01
    noisy = metrics.pairwise_distances(a + 0.3 * b)
    assert mantel(first, noisy).p_value == pytest.approx(1 / 1001)


def test_similarity(tmp_path: Path) -> None:
    about = subject(tmp_path / "run", hard=True)
    found = similarity(about, num_permutations=99)
    assert found["task_vectors"]["p_value"] == 0.01
    assert found["transfer"]["value"] is not None
    # A slow oracle: parameters of two tasks' models side by side.
    distances = parameter_distances(about)
    assert distances is not None
    from safetensors.numpy import load_file

    tensors = load_file(about.run.path / "checkpoints/moe/step-000100/model.safetensors")
    squares = 0.0
    for at, chosen in zip(about.last.layers, about.last.hard_experts, strict=True):
        a, b = (
            tensors[f"backbone.model.{at.stack}.layers.{at.layer}.fc1.experts.{e}.weight"]
            for e in (chosen[3], chosen[17])
        )
        squares += float(((a - b) ** 2).sum())
    assert distances[3, 17] == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert vector_distances(np.array([[1.0, 0], [0, 2], [0, 0]])).tolist() == [
        [0, 1, 1], [1, 0, 1], [1, 1, 0],
    ]  # fmt: skip


def test_experts_are_matched(tmp_path: Path) -> None:
    first = subject(tmp_path / "a", hard=True)
    table = first.run.routes["moe"].copy()
    table["expert"] = (table["expert"] + 1) % 3
    first.run.routes["renamed"] = table
    other = load_run(write_folder(tmp_path / "b", hard=True, seed=7, planted=0.0))
    found, _ = subjects_of(first.run, "a")
    more, _ = subjects_of(other, "b")
    rows = comparison([*found, *more])
    same, different = rows[0]["matched"], rows[1]["matched"]
    assert same["value"] == pytest.approx(1)
    assert same["p_value"] == pytest.approx(1 / 201)
    assert different["value"] < 0.6
    assert different["p_value"] > 0.01


def test_ablation_finds_the_expert_that_matters(tmp_path: Path) -> None:
    run = load_run(write_folder(tmp_path / "run", hard=True, ablation=True, num_layers=3))
    rows = dropping(run.ablation)["experts"]
    assert len(rows) > 10
    worst = max(rows, key=lambda row: row["drop"])
    assert (worst["stack"], worst["layer"], worst["expert"]) == ("decoder", 1, 1)
    assert worst["drop"] == pytest.approx(0.4)
    assert worst["p_value"] < 0.01
    assert worst["interval"] == pytest.approx((0.4, 0.4))
    assert sum(c["num_tasks"] for c in worst["per_category"].values()) == worst["num_tasks"]
    others = [row for row in rows if row is not worst]
    assert min(row["p_value"] for row in others) > 0.05


def test_everything_is_json_with_stable_names(tmp_path: Path) -> None:
    paths = [
        write_folder(tmp_path / name, seed=seed, ablation=True, hard=True)
        for seed, name in enumerate("ab")
    ]
    found = gather(paths, num_permutations=19).statistics
    assert json.loads(json.dumps(found, allow_nan=False))["format"] == 1
    assert list(found["routes"]) == ["a", "b"]
    assert set(found["routes"]["a"]) >= {
        "clusters", "association", "load", "movement", "similarity", "ablation",
    }  # fmt: skip
    assert len(found["summary"]) == 5
    again = gather(paths, num_permutations=19).statistics
    assert again == found
