"""Do clusters of routes rediscover human categories?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from analysis import partitions
from analysis.agreement import why_none
from analysis.permutation import Measure, Statistic, measures, permuted_labels
from analysis.report.subject import NO_CATEGORY
from analysis.routes import Snapshot

LABELS = ("category", "subcategory")
STATISTICS = (
    "adjusted_rand",
    "normalized_mutual_information",
    "silhouette",
    "neighbour_accuracy",
    "similarity_gap",
)
OVERALL, VECTORS = "overall", "task_vectors"


def cluster_statistics(
    shot: Snapshot, vectors: np.ndarray | None, *, num_permutations: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """``{label: {unit: {statistic: measure}}}``.

    Units are ``overall``, each stack, each layer (``encoder.0``) and ``task_vectors``. Distances
    are total variation of routes (mean over a unit's layers) and one minus the cosine of task
    vectors. Tasks without a category take no part.
    """
    places = dict(units(shot, vectors))
    return {
        label: {
            name: {
                statistic: asdict(measure)
                for statistic, measure in label_statistics(
                    distances, shot.tasks[label].tolist(), num_permutations, seed
                ).items()
            }
            for name, distances in places.items()
        }
        for label in LABELS
    }


def units(shot: Snapshot, vectors: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and distances ``[tasks, tasks]`` of everything that clusters are looked for in."""
    yield OVERALL, shot.distances
    stacks = list(dict.fromkeys(layer.stack for layer in shot.layers))
    for stack in stacks:
        layers = [layer for layer in shot.layers if layer.stack == stack]
        yield stack, shot.part(layers).distances
        for layer in layers:
            yield layer.name, shot.part([layer]).distances
    if vectors is not None:
        yield VECTORS, vector_distances(vectors)


def vector_distances(vectors: np.ndarray) -> np.ndarray:
    """One minus cosine ``[tasks, tasks]``, 0 to 2; a vector of zeros is at 1 from all others."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    distances = cdist(unit, unit, "sqeuclidean") / 2
    zero = lengths[:, 0] == 0
    distances[zero], distances[:, zero] = 1.0, 1.0
    np.fill_diagonal(distances, 0.0)
    return distances


def label_statistics(
    distances: np.ndarray,
    names: Sequence[str],
    num_permutations: int,
    seed: int,
    wanted: Sequence[str] = STATISTICS,
) -> dict[str, Measure]:
    """The ``wanted`` statistics of distances ``[tasks, tasks]`` against the tasks' labels."""
    known = np.array([name not in ("", NO_CATEGORY) for name in names], dtype=bool)
    kept = [name for name, keep in zip(names, known, strict=True) if keep]
    number = {name: place for place, name in enumerate(sorted(set(kept)))}
    labels = np.array([number[name] for name in kept], dtype=int)
    distances = distances[np.ix_(known, known)]
    note = why_none(labels, distances)
    if note:
        return dict.fromkeys(wanted, Measure(None, note=note))
    rng = np.random.default_rng(seed)
    draws = permuted_labels(labels, num_permutations, rng)
    statistics = _statistics(distances, labels, rng)
    return {name: measures(statistics[name], draws, rng)[0] for name in wanted}


def _statistics(
    distances: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> dict[str, Statistic]:
    @cache
    def clusters() -> np.ndarray:
        return partitions.clusterings(distances, int(labels.max()) + 1, rng)

    return {
        "adjusted_rand": lambda d: partitions.adjusted_rand(clusters(), d).mean(1, keepdims=True),
        "normalized_mutual_information": lambda d: partitions.nmi(clusters(), d).mean(
            1, keepdims=True
        ),
        "silhouette": partitions.silhouette(distances),
        "neighbour_accuracy": partitions.neighbour_accuracy(distances),
        "similarity_gap": partitions.similarity_gap(1 - distances, labels),
    }
