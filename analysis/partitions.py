"""Statistics of tasks' distances against labels, each for many labellings at once.

Labellings are permutations of one: ``draws [N, tasks]``, numbers from 0.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from analysis.permutation import TIE, Statistic

_NUM_ORDERS = 10


def clusterings(distances: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Average-linkage clusterings ``[orders, tasks]`` into ``num`` clusters (Sokal & Michener
    1958), or into as many as there are different tasks.

    Among tied distances the linkage goes by the order of the tasks, which often is by category:
    without random orders, ties alone would look like agreement.
    """
    pairs = np.sort(squareform(distances, checks=False))
    tied = bool((np.diff(pairs) <= TIE).any())
    num = min(num, len(np.unique(distances.round(9) <= TIE, axis=0)))
    found = []
    for _ in range(_NUM_ORDERS if tied else 1):
        order = rng.permutation(len(distances))
        shuffled = squareform(distances[np.ix_(order, order)].round(9), checks=False)
        clusters = np.empty(len(order), dtype=int)
        clusters[order] = cut(linkage(shuffled, "average"), num)
        found.append(clusters)
    return np.stack(found)


def cut(tree: np.ndarray, num: int) -> np.ndarray:
    """``num`` clusters ``[tasks]`` of a linkage, numbered from 0 (``cut_tree``, but fast)."""
    T = len(tree) + 1
    root = list(range(2 * T - 1))
    for merge in reversed(range(T - num)):
        a, b = int(tree[merge, 0]), int(tree[merge, 1])
        root[a] = root[b] = root[T + merge]
    return np.unique(root[:T], return_inverse=True)[1]


def nmi(clusters: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Normalised mutual information (arithmetic mean) of every labelling with every clustering.

    Args:
        clusters: ``[K, tasks]``.

    Returns:
        ``[N, K]``.
    """
    T = clusters.shape[1]
    n = np.arange(T + 1)
    n_log_n = n * np.log(np.maximum(n, 1))
    of_clusters = np.log(T) - n_log_n[_sizes(clusters)].sum(axis=1) / T  # [K]
    of_labels = np.log(T) - n_log_n[np.bincount(draws[0])].sum() / T
    joint = np.log(T) - n_log_n[_joint(clusters, draws)].sum(axis=2) / T  # [N, K]
    both = of_clusters + of_labels
    information = (both - joint).clip(min=0)
    return np.where(both > TIE, 2 * information / np.maximum(both, TIE), 1.0)


def adjusted_rand(clusters: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Adjusted Rand index (Hubert & Arabie 1985) as ``nmi``: ``[N, K]``."""
    n = np.arange(clusters.shape[1] + 1)
    pairs = n * (n - 1) / 2
    of_clusters = pairs[_sizes(clusters)].sum(axis=1)  # [K]
    of_labels = pairs[np.bincount(draws[0])].sum()
    together = pairs[_joint(clusters, draws)].sum(axis=2)
    expected = of_clusters * of_labels / pairs[-1]
    room = (of_clusters + of_labels) / 2 - expected
    return np.where(room > TIE, (together - expected) / np.where(room > TIE, room, 1.0), 1.0)


def silhouette(distances: np.ndarray) -> Statistic:
    """Mean silhouette (Rousseeuw 1987) of the labels; tasks alone in a label count 0."""

    def mean(draws: np.ndarray) -> np.ndarray:
        sizes = np.bincount(draws[0])
        sums = _sums(distances, draws)  # [N, T, l]
        own = draws[..., None]
        size = sizes[draws]
        inner = np.take_along_axis(sums, own, 2)[..., 0] / np.maximum(size - 1, 1)
        outer = sums / sizes
        np.put_along_axis(outer, own, np.inf, 2)
        outer = outer.min(axis=2)
        larger = np.maximum(inner, outer)
        known = (size > 1) & (larger > TIE)
        return np.where(known, (outer - inner) / np.where(known, larger, 1), 0).mean(1)[:, None]

    return mean


def similarity_gap(similarity: np.ndarray, labels: np.ndarray) -> Statistic:
    """Mean similarity of two tasks of one label minus that of two tasks of different ones."""
    off = similarity - np.diag(np.diag(similarity))
    sizes = np.bincount(labels)
    num_within = (sizes * (sizes - 1)).sum()
    num_between = len(labels) * (len(labels) - 1) - num_within

    def gap(draws: np.ndarray) -> np.ndarray:
        within = _within(off, draws)
        return (within / num_within - (off.sum() - within) / num_between)[:, None]

    return gap


def neighbour_accuracy(distances: np.ndarray) -> Statistic:
    """Share of tasks whose nearest other task has their label; tied neighbours share one vote."""
    others = distances + np.diag(np.full(len(distances), np.inf))
    nearest = (others <= others.min(axis=1, keepdims=True) + TIE).astype(float)
    votes = nearest / nearest.sum(axis=1, keepdims=True)
    return lambda draws: (_within(votes, draws) / len(votes))[:, None]


def _sizes(clusters: np.ndarray) -> np.ndarray:
    """``[K, tasks]`` -> ``[K, clusters]``."""
    num = clusters.max() + 1
    return np.stack([np.bincount(row, minlength=num) for row in clusters])


def _joint(clusters: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Counts of tasks by cluster and label: ``[N, K, clusters * labels]``."""
    N, K = len(draws), len(clusters)
    num_labels = draws.max() + 1
    cells = (clusters.max() + 1) * num_labels
    place = clusters * num_labels + draws[:, None]  # [N, K, T]
    place += (np.arange(N * K) * cells).reshape(N, K, 1)
    return np.bincount(place.ravel(), minlength=N * K * cells).reshape(N, K, cells)


def _sums(matrix: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Sum of ``matrix[t, u]`` over tasks u of label l: ``[N, t, l]``."""
    N, T = draws.shape
    labels = draws.T[..., None] == np.arange(draws.max() + 1)  # [T, N, l]
    # One large product: a batch of small ones takes several times as long.
    sums = matrix @ labels.reshape(T, -1).astype(float)
    return sums.reshape(T, N, -1).transpose(1, 0, 2)


def _within(weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Sum of ``weights[t, u]`` over tasks t, u of one label: ``[N]``."""
    own = np.take_along_axis(_sums(weights, draws), draws[..., None], 2)
    return own.sum(axis=(1, 2))
