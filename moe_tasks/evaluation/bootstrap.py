"""Resampling for intervals: tasks, and samples within tasks."""

from __future__ import annotations

import numpy as np

_CHUNK_VALUES = 4_000_000


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval from resampled ``values`` (one axis)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(tasks: list[np.ndarray], num: int, rng: np.random.Generator) -> np.ndarray:
    """Means over drawn tasks of means over drawn samples: ``[num, values]``.

    Args:
        tasks: per task ``[samples, values]``.
    """
    T, V = len(tasks), tasks[0].shape[1]
    counts = np.array([len(t) for t in tasks])  # [T]
    S = int(counts.max())
    padded = np.zeros((T, S, V))
    for row, task in zip(padded, tasks, strict=True):
        row[: len(task)] = task
    chunk = max(1, _CHUNK_VALUES // (T * S * V))
    means = []
    for start in range(0, num, chunk):
        drawn = rng.integers(T, size=(min(chunk, num - start), T))  # [B, T]
        if S == 1:
            means.append(padded[drawn, 0].mean(axis=1))
            continue
        n = counts[drawn][..., None]  # [B, T, 1]
        picked = (rng.random((*drawn.shape, S)) * n).astype(int)  # [B, T, S]
        used = np.arange(S) < n
        values = padded[drawn[..., None], picked] * used[..., None]  # [B, T, S, V]
        means.append((values.sum(axis=2) / n).mean(axis=1))
    return np.concatenate(means)
