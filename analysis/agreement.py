"""Do tasks of one human category have similar routes?

Every statistic comes with a permutation test: the categories are permuted over the tasks, and
p = (1 + permutations at least as large) / (1 + permutations), so that it is never zero and is
valid whatever the sizes of the categories and however many routes are equal. A statistic with
few possible values (neighbours of few tasks) has p-values above uniform ones without structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform

from analysis.routes import Snapshot

_TIE = 1e-9
_NUM_ORDERS = 10
_CHUNK = 500
MEASURES = ("cluster_nmi", "similarity_gap", "neighbour_accuracy", "layer_nmi")
# Labels of all permutations [permutations, tasks] -> values [permutations, ...].
_Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One statistic; ``value`` is None where there is none, and ``note`` then says why.

    ``chance`` is its mean over the permutations.
    """

    value: float | None
    chance: float | None = None
    p_value: float | None = None
    note: str = ""


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
    known = {name: number for number, name in enumerate(sorted(set(names)))}
    labels = np.array([known[name] for name in names], dtype=int)
    rng = np.random.default_rng(seed)
    draws = np.tile(labels, (num_permutations + 1, 1))  # row 0 stays as it is
    draws[1:] = rng.permuted(draws[1:], axis=1)
    note = _why_none(routes, labels)
    if note:
        none = Measure(None, note=note)
        measures = dict.fromkeys(MEASURES, none)
        by_layer = [none] * len(routes.layers)
    else:
        statistics = _statistics(routes, labels, rng)
        measures = {name: _measures(statistics[name], draws)[0] for name in MEASURES}
        by_layer = _measures(lambda d: _nmi(routes.hard_experts, d), draws)
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
) -> dict[str, _Statistic]:
    clusters = np.stack(_clusterings(routes.distances, int(labels.max()) + 1, rng))
    experts = routes.hard_experts
    return {
        "cluster_nmi": lambda draws: _nmi(clusters, draws).mean(axis=1, keepdims=True),
        "similarity_gap": _similarity_gap(1 - routes.distances, labels),
        "neighbour_accuracy": _neighbour_accuracy(routes.distances),
        "layer_nmi": lambda draws: _nmi(experts, draws).mean(axis=1, keepdims=True),
    }


def _why_none(routes: Snapshot, labels: np.ndarray) -> str:
    if len(labels) < 2:
        return "there is only one task"
    sizes = np.bincount(labels)
    if len(sizes) == 1:
        return "all tasks are of one category"
    if sizes.max() == 1:
        return "every task is a category of its own"
    if routes.distances.max() <= _TIE:
        return "all tasks have the same route"
    return ""


def _measures(statistic: _Statistic, draws: np.ndarray) -> list[Measure]:
    """Permutation tests; ``draws[0]`` is the true labelling."""
    parts = [statistic(draws[at : at + _CHUNK]) for at in range(0, len(draws), _CHUNK)]
    values = np.concatenate(parts)  # [1 + permutations, measures]
    value, null = values[0], values[1:]
    as_large = (null >= value - _TIE).sum(axis=0)
    p_values = (1 + as_large) / (1 + len(null))
    chances = null.mean(axis=0) if len(null) else np.full(len(value), np.nan)
    return [
        Measure(float(v), float(c) if len(null) else None, float(p) if len(null) else None)
        for v, c, p in zip(value, chances, p_values, strict=True)
    ]


def _clusterings(distances: np.ndarray, num: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Average-linkage clusterings ``[tasks]`` into ``num`` clusters.

    Among tied distances the linkage goes by the order of the tasks, which often is by category:
    without random orders, ties alone would look like agreement.
    """
    pairs = np.sort(squareform(distances, checks=False))
    tied = bool((np.diff(pairs) <= _TIE).any())
    clusterings = []
    for _ in range(_NUM_ORDERS if tied else 1):
        order = rng.permutation(len(distances))
        shuffled = squareform(distances[np.ix_(order, order)].round(9), checks=False)
        clusters = np.empty(len(order), dtype=int)
        clusters[order] = cut_tree(linkage(shuffled, "average"), n_clusters=num)[:, 0]
        clusterings.append(clusters)
    return clusterings


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return (labels[..., None] == np.arange(labels.max() + 1)).astype(float)


def _nmi(clusterings: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Normalised mutual information of every labelling with every clustering: ``[N, K]``.

    Args:
        clusterings: ``[K, tasks]``.
        draws: ``[N, tasks]``, permutations of one labelling.
    """
    clusters, labels = _one_hot(clusterings), _one_hot(draws)  # [K, T, c], [N, T, l]
    joint = np.einsum("ktc,ntl->nkcl", clusters, labels, optimize=True) / draws.shape[1]
    of_clusters, of_labels = joint.sum(axis=3), joint.sum(axis=2)
    information = (
        _entropy(of_clusters) + _entropy(of_labels) - _entropy(joint.reshape(*joint.shape[:2], -1))
    )
    both = _entropy(of_clusters) + _entropy(of_labels)
    return np.where(both > _TIE, 2 * information.clip(min=0) / np.maximum(both, _TIE), 1.0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _within(weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Sum of ``weights[t, u]`` over tasks t, u of one category: ``[N]``."""
    labels = _one_hot(draws)
    return np.einsum("ntl,ntl->n", labels, weights @ labels)


def _similarity_gap(similarity: np.ndarray, labels: np.ndarray) -> _Statistic:
    off = similarity - np.diag(np.diag(similarity))
    sizes = np.bincount(labels)
    num_within = (sizes * (sizes - 1)).sum()
    num_between = len(labels) * (len(labels) - 1) - num_within

    def gap(draws: np.ndarray) -> np.ndarray:
        within = _within(off, draws)
        return (within / num_within - (off.sum() - within) / num_between)[:, None]

    return gap


def _neighbour_accuracy(distances: np.ndarray) -> _Statistic:
    others = distances + np.diag(np.full(len(distances), np.inf))
    nearest = (others <= others.min(axis=1, keepdims=True) + _TIE).astype(float)
    votes = nearest / nearest.sum(axis=1, keepdims=True)
    return lambda draws: (_within(votes, draws) / len(votes))[:, None]
