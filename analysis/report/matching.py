"""Are the routes of two runs (seeds, systems) the same up to the names of the experts?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from analysis.permutation import Measure, from_null, permuted_places
from analysis.report.similarity import FEWEST_TASKS, mantel
from analysis.report.subject import Subject
from analysis.routes import Snapshot


def comparison(
    subjects: Sequence[Subject], *, num_permutations: int = 200, seed: int = 0
) -> list[dict[str, Any]]:
    """One row per pair of subjects, over the tasks that both have.

    ``matched``: share of the routes that two subjects have in common (1 - total variation
    distance, mean over layers and tasks) when each layer's experts are matched one to one so
    that most is in common (Kuhn 1955); chance and p-value by permuting one subject's tasks, with
    experts matched anew. ``distances``: Mantel correlation of the tasks' distances, which needs
    no matching.
    """
    return [
        {"a": a.name, "b": b.name, **_pair(a.last, b.last, num_permutations, seed)}
        for a, b in combinations(subjects, 2)
    ]


def _pair(a: Snapshot, b: Snapshot, num: int, seed: int) -> dict[str, Any]:
    place_a, place_b = (
        {task: row for row, task in enumerate(shot.tasks["task"])} for shot in (a, b)
    )
    common = [task for task in place_a if task in place_b]
    found: dict[str, Any] = {
        "num_common_tasks": len(common),
        "only_a": len(place_a) - len(common),
        "only_b": len(place_b) - len(common),
    }
    a = a.part(a.layers, [place_a[task] for task in common])
    b = b.part(b.layers, [place_b[task] for task in common])
    if len(common) < FEWEST_TASKS:
        none = Measure(None, note=f"{len(common)} tasks in common are too few")
        return {**found, "matched": asdict(none), "distances": asdict(none)}
    distances = mantel(a.distances, b.distances, num_permutations=num, seed=seed)
    return {**found, "matched": asdict(_matched(a, b, num, seed)), "distances": asdict(distances)}


def _matched(a: Snapshot, b: Snapshot, num: int, seed: int) -> Measure:
    if a.layers != b.layers:
        return Measure(None, note="they differ in layers or experts")
    rng = np.random.default_rng(seed)
    values = [
        np.mean(
            [_in_common(a.weights[:, at.columns], b.weights[p][:, at.columns]) for at in a.layers]
        )
        for p in permuted_places(len(a.weights), num, rng)
    ]
    return from_null(np.array(values)[:, None], rng)[0]


def _in_common(a: np.ndarray, b: np.ndarray) -> float:
    """Routes ``[tasks, m]`` of one layer; routes sum to one, so sums of minima are 1 - distance."""
    shares = np.minimum(a[:, :, None], b[:, None, :]).mean(axis=0)  # [m, m]
    rows, columns = linear_sum_assignment(-shares)
    return float(shares[rows, columns].sum())
