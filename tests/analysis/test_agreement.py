"""Planted structure is found, none is not, and numbers equal scikit-learn's."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from analysis.agreement import MEASURES, agreement
from analysis.routes import Snapshot, snapshot
from tests.analysis.tables import route_table, shot


def labels_of(routes: Snapshot) -> np.ndarray:
    return pd.factorize(routes.tasks["category"])[0]


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed: int) -> None:
    routes = shot(0.7, seed=seed)
    found = agreement(routes, num_permutations=10)
    labels = labels_of(routes)
    clusters = AgglomerativeClustering(5, metric="precomputed", linkage="average").fit_predict(
        routes.distances
    )
    assert found.cluster_nmi.value == pytest.approx(
        normalized_mutual_info_score(labels, clusters), abs=1e-9
    )
    nearest = NearestNeighbors(n_neighbors=1, metric="precomputed").fit(routes.distances)
    neighbours = nearest.kneighbors(return_distance=False)[:, 0]
    assert found.neighbour_accuracy.value == pytest.approx((labels == labels[neighbours]).mean())
    per_layer = [
        normalized_mutual_info_score(labels, routes.weights[:, at.columns].argmax(axis=1))
        for at in routes.layers
    ]
    assert [m.nmi.value for m in found.per_layer] == pytest.approx(per_layer, abs=1e-9)
    assert found.layer_nmi.value == pytest.approx(np.mean(per_layer), abs=1e-9)


def test_gap_and_chance_equal_loops() -> None:
    routes = shot(0.7)
    found = agreement(routes, num_permutations=4000)
    labels, num = labels_of(routes), 30
    within, between = [], []
    for a in range(num):
        for b in range(a):
            (within if labels[a] == labels[b] else between).append(1 - routes.distances[a, b])
    assert found.similarity_gap.value == pytest.approx(np.mean(within) - np.mean(between))
    assert found.similarity_gap.chance == pytest.approx(0, abs=0.003)
    sizes = np.bincount(labels)
    chance = (sizes * (sizes - 1)).sum() / (num * (num - 1))
    assert found.neighbour_accuracy.chance == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize("hard", [False, True])
def test_planted_structure_is_found_half_of_it_half(hard: bool) -> None:
    strong, half, none = (
        agreement(shot(strength, hard=hard, seed=4)) for strength in (1000.0, 1.2, 0.0)
    )
    for name in MEASURES:
        values = [getattr(found, name).value for found in (none, half, strong)]
        assert values == sorted(values)
        assert getattr(strong, name).p_value == pytest.approx(1 / 1001)
        assert getattr(half, name).p_value < 0.01
        assert getattr(none, name).p_value > 0.05
    assert strong.cluster_nmi.value == pytest.approx(1)
    assert strong.neighbour_accuracy.value == pytest.approx(1)
    assert abs(none.cluster_nmi.value - none.cluster_nmi.chance) < 0.1


def test_order_of_tasks_does_not_make_agreement() -> None:
    """Two routes, spread evenly over the categories, and tasks sorted by category."""
    table = route_table(0.0, num_tasks=40, num_layers=1, hard=True)
    expert = table["task"].str.removeprefix("task_").astype(int) % 2
    table["weight"] = (table["expert"] == expert).astype(float)
    found = agreement(snapshot(table))
    assert found.cluster_nmi.p_value > 0.05
    assert found.neighbour_accuracy.value == pytest.approx(3 / 19)
    assert found.layer_nmi.value == pytest.approx(0, abs=1e-9)


def test_subcategories_and_seeds() -> None:
    routes = shot(2.0)
    found = agreement(routes, label="subcategory")
    assert found.num_categories == 3
    assert found.cluster_nmi.p_value > 0.05
    assert agreement(routes, seed=1) == agreement(routes, seed=1)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"num_tasks": 1, "num_categories": 1}, "there is only one task"),
        ({"num_categories": 1}, "all tasks are of one category"),
        ({"num_tasks": 5, "num_categories": 5}, "every task is a category of its own"),
    ],
)
def test_no_statement_is_said(options: dict, note: str) -> None:
    found = agreement(shot(1.0, **options), num_permutations=10)
    for name in MEASURES:
        measure = getattr(found, name)
        assert (measure.value, measure.p_value, measure.note) == (None, None, note)
    assert len(found.per_layer) == 4
    json.dumps(found.as_dict(), allow_nan=False)


def test_equal_routes() -> None:
    table = route_table(0.0)
    table["weight"] = 1 / 3
    found = agreement(snapshot(table), num_permutations=10)
    assert found.cluster_nmi.note == "all tasks have the same route"


def test_one_layer_alike_for_all_counts_as_no_agreement() -> None:
    table = route_table(4.0, hard=True)
    same = (table["stack"] == "decoder") & (table["layer"] == 1)
    table.loc[same, "weight"] = (table.loc[same, "expert"] == 2).astype(float)
    found = agreement(snapshot(table), num_permutations=50)
    assert found.per_layer[-1].nmi.value == pytest.approx(0.0, abs=1e-12)
    assert found.per_layer[-1].nmi.p_value == 1.0
    assert found.per_layer[0].nmi.value > 0.4


def test_no_permutations_and_json() -> None:
    found = agreement(shot(1.0), num_permutations=0)
    assert found.cluster_nmi.value is not None
    assert found.cluster_nmi.p_value is None
    content = json.loads(json.dumps(agreement(shot(1.0)).as_dict(), allow_nan=False))
    assert set(content) == {field.name for field in dataclasses.fields(found)}
    assert set(content["per_layer"][0]["nmi"]) == {"value", "chance", "p_value", "note"}
