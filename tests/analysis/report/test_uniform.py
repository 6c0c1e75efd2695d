"""Every p-value that is reported is uniform without structure: Kolmogorov-Smirnov, 200 draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.agreement import MEASURES, agreement
from analysis.checkpoints import Checkpoint
from analysis.report.association import association
from analysis.report.clusters import label_statistics
from analysis.report.dropping import dropping
from analysis.report.matching import comparison
from analysis.report.similarity import similarity
from analysis.report.subject import Subject
from analysis.runs import SCORE_COLUMNS, Run
from tests.analysis.tables import shot

NUM_DRAWS, NUM = 200, 59
Values = Mapping[str, Any]


def p_of(measures: Mapping[str, Any]) -> Values:
    return {name: measure["p_value"] for name, measure in measures.items()}


def subject(seed: int, hard: bool, name: str = "a") -> Subject:
    """Routes, task vectors, experts and scores that have nothing to do with each other."""
    rng = np.random.default_rng(seed + 10_000)
    routes = shot(0.0, seed=seed, hard=hard, num_tasks=16, num_experts=4)
    tasks = routes.tasks["task"].tolist()
    grams = {}
    for at in routes.layers:
        block = rng.normal(size=(4, 6))
        block -= block.mean(axis=0)
        grams[at.name] = block @ block.T
    rows = [
        (system, task, "c", "", "test", "ACC", float(rng.integers(5)) / 4)
        for system in ("multitask", "moe")
        for task in tasks
    ]
    scores = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    run = Run(Path(name), {}, scores, scores)
    vectors = {task: rng.normal(size=3) for task in tasks}
    return Subject(name, run, "moe", (routes,), pd.DataFrame(), Checkpoint(vectors, grams))


def of_clusters(seed: int, hard: bool) -> Values:
    routes = shot(0.0, seed=seed, hard=hard, num_layers=1, num_tasks=50)
    found = label_statistics(routes.distances, routes.tasks["category"].tolist(), NUM, seed)
    return {name: measure.p_value for name, measure in found.items()}


def of_agreement(seed: int, hard: bool) -> Values:
    routes = shot(0.0, seed=seed, hard=hard, num_layers=1 if hard else 2)
    found = agreement(routes, num_permutations=NUM, seed=seed)
    layer = found.per_layer[0].nmi.p_value
    return {"layer": layer, **{name: getattr(found, name).p_value for name in MEASURES}}


def of_association(seed: int, hard: bool) -> Values:
    routes = shot(0.0, seed=seed, hard=hard, num_tasks=24, num_categories=2, num_layers=1)
    rng = np.random.default_rng(1000 + seed)
    columns = {
        "extractive": [bool(x) for x in rng.random(24) < 0.4],
        "output_words": rng.integers(1, 9, 24).astype(float).tolist(),
    }
    facts = pd.DataFrame(columns, index=pd.Index(routes.tasks["task"])).astype(object)
    pairs = association(routes, facts, num_permutations=NUM, num_bootstrap=0, seed=seed)["pairs"]
    first = [pair for pair in pairs if (pair["stack"], pair["expert"]) == ("encoder", 0)]
    return {pair["method"]: pair["p_value"] for pair in first}


def of_similarity(seed: int, hard: bool) -> Values:
    found = similarity(subject(seed, hard), num_permutations=NUM, seed=seed + 20_000)
    return p_of({name: found[name] for name in found if name != "expert_distance"})


def of_comparison(seed: int, hard: bool) -> Values:
    subjects = [subject(seed, hard), subject(5000 + seed, hard, "b")]
    row = comparison(subjects, num_permutations=NUM, seed=seed)[0]
    return p_of({"matched": row["matched"], "distances": row["distances"]})


def of_ablation(seed: int, hard: bool) -> Values:
    """Drops in steps of .1 that are random, so that random experts tie with the one looked at."""
    rng = np.random.default_rng(seed)
    rows = [
        {"task": f"t{task}", "category": "c", "stack": "encoder", "layer": layer,
         "expert": int(rng.integers(2)), "weight": 1.0, "drop": float(rng.integers(3)) / 10}
        for task in range(20)
        for layer in range(2)
    ]  # fmt: skip
    return {"drop": dropping(pd.DataFrame(rows), seed=seed)["experts"][0]["p_value"]}


CASES = (of_clusters, of_agreement, of_association, of_similarity, of_comparison)


def cases() -> Iterator[Any]:
    for case in CASES:
        for hard in (False, True):
            yield pytest.param(case, hard, id=f"{case.__name__}-{'hard' if hard else 'soft'}")
    yield pytest.param(of_ablation, True, id="of_ablation")


@pytest.mark.parametrize(("case", "hard"), cases())
def test_p_values_are_uniform_without_structure(case: Any, hard: bool) -> None:
    rng = np.random.default_rng(0)
    p_values: dict[str, list[float]] = defaultdict(list)
    for seed in range(200_000, 200_000 + NUM_DRAWS):
        for name, value in case(seed, hard).items():
            # A step of 1 / (1 + NUM) wide is made even, so that the test is of the p-values alone.
            step = 0 if case is of_ablation else 1 / (1 + NUM)
            p_values[name].append(value - step * rng.random())
    for name, values in p_values.items():
        assert len(values) == NUM_DRAWS, name
        assert stats.kstest(values, "uniform").pvalue > 0.01, name
        assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.1, name
