"""Means over runs, their intervals, and p-values of many comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from moe_tasks.evaluation.bootstrap import percentile_interval, resampled_means

NUM_BOOTSTRAP = 10_000
_FEWEST_FOR_TEST = 3


@dataclass(frozen=True)
class Spread:
    """Mean over runs with two 95% intervals, None with fewer than two runs."""

    mean: float
    t_interval: tuple[float, float] | None
    bootstrap_interval: tuple[float, float] | None
    num_runs: int
    num_positive: int


def spread(values: Sequence[float], seed: int = 0) -> Spread:
    """Mean of ``values`` (one per run, at least one) and its intervals over runs."""
    mean, num = float(np.mean(values)), len(values)
    positive = sum(value > 0 for value in values)
    if num < 2:
        return Spread(mean, None, None, num, positive)
    half = float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / np.sqrt(num))
    runs = [np.array([[value]]) for value in values]
    drawn = resampled_means(runs, NUM_BOOTSTRAP, np.random.default_rng(seed))[:, 0]
    return Spread(mean, (mean - half, mean + half), percentile_interval(drawn), num, positive)


def t_test(values: Sequence[float]) -> float | None:
    """Two-sided p-value of a zero mean of ``values`` (one per run), None with fewer than three."""
    if len(values) < _FEWEST_FOR_TEST:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    if error < 1e-12:  # equal in all runs, such as a system compared with its twin
        return 1.0 if abs(mean) < 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values (Holm 1979, step-down); None stays None and does not count.

    Calling significant what is at or below a level keeps the chance of even one false claim
    below that level, whatever the dependence between comparisons.
    """
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[at] = largest
    return adjusted
