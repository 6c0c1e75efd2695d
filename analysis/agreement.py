"""Do tasks of one human category have similar routes?

Every statistic comes with a permutation test: the categories are permuted over the tasks, and the
p-value is the true labelling's place among the permuted ones (``permutation.p_values``), so that it
is never zero and is valid whatever the sizes of the categories and however many routes are equal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import partitions
from analysis.permutation import TIE, Measure, Statistic, permuted_labels
from analysis.permutation import measures as tested
from analysis.routes import Snapshot

MEASURES = ("cluster_nmi", "similarity_gap", "neighbour_accuracy", "layer_nmi")


@dataclass(frozen=True)
class LayerMeasure:
    """Normalised mutual information of one layer's hard expert with the category."""

    stack: str
    layer: int
    nmi: Measure


@dataclass(frozen=True)
class Agreement:
    """Agreement of the routes at one step with human categories.

    Attributes:
        cluster_nmi: normalised mutual information (arithmetic mean) between categories and as
            many clusters of routes: average linkage on the total variation distance. Where
            distances are tied the clusters depend on the order of the tasks; the value is then
            the mean over 10 random orders.
        similarity_gap: mean route similarity (1 - distance) of two tasks of one category minus
            that of two tasks of different categories; needs no clusters.
        neighbour_accuracy: share of tasks whose nearest other task is of their category; tied
            neighbours share one vote.
        layer_nmi: mean of ``per_layer``.
        per_layer: see ``LayerMeasure``.
    """

    label: str
    step: int
    num_tasks: int
    num_categories: int
    num_permutations: int
    seed: int
    cluster_nmi: Measure
    similarity_gap: Measure
    neighbour_accuracy: Measure
    layer_nmi: Measure
    per_layer: tuple[LayerMeasure, ...]

    def as_dict(self) -> dict[str, Any]:
        """For ``json.dump``; no NaN inside."""
        return dataclasses.asdict(self)


def agreement(
    routes: Snapshot, *, label: str = "category", num_permutations: int = 1000, seed: int = 0
) -> Agreement:
    """Agreement of one snapshot with the human ``label`` (``category`` or ``subcategory``).

    Where routes or labels allow no statement (one task, one category, every task its own
    category, equal routes) the measures say so instead of giving a number.
    """
    names: list[str] = routes.tasks[label].tolist()
    known, labels = np.unique(names, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = permuted_labels(labels, num_permutations, rng)
    note = why_none(labels, routes.distances)
    if note:
        none = Measure(None, note=note)
        measures = dict.fromkeys(MEASURES, none)
        by_layer = [none] * len(routes.layers)
    else:
        statistics = _statistics(routes, labels, rng)
        measures = {name: tested(statistics[name], draws, rng)[0] for name in MEASURES}
        by_layer = tested(lambda d: partitions.nmi(routes.hard_experts, d), draws, rng)
    return Agreement(
        label=label,
        step=routes.step,
        num_tasks=len(labels),
        num_categories=len(known),
        num_permutations=num_permutations,
        seed=seed,
        per_layer=tuple(
            LayerMeasure(at.stack, at.layer, nmi)
            for at, nmi in zip(routes.layers, by_layer, strict=True)
        ),
        **measures,
    )


def _statistics(
    routes: Snapshot, labels: np.ndarray, rng: np.random.Generator
) -> dict[str, Statistic]:
    distances, experts = routes.distances, routes.hard_experts
    clusters = partitions.clusterings(distances, int(labels.max()) + 1, rng)
    return {
        "cluster_nmi": lambda draws: partitions.nmi(clusters, draws).mean(axis=1, keepdims=True),
        "similarity_gap": partitions.similarity_gap(1 - distances, labels),
        "neighbour_accuracy": partitions.neighbour_accuracy(distances),
        "layer_nmi": lambda draws: partitions.nmi(experts, draws).mean(axis=1, keepdims=True),
    }


def why_none(labels: np.ndarray, distances: np.ndarray, what: str = "route") -> str:
    """Why distances and labels allow no statement; empty where they do."""
    if not len(labels):
        return "no task has a category"
    if len(labels) == 1:
        return "there is only one task"
    sizes = np.bincount(labels)
    if len(sizes) == 1:
        return "all tasks are of one category"
    if sizes.max() == 1:
        return "every task is a category of its own"
    if distances.max() <= TIE:
        return f"all tasks have the same {what}"
    return ""
