"""Permutation tests of statistics that are computed for many labellings at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TIE = 1e-9
_CHUNK = 500
# Labels of all permutations [permutations, tasks] -> values [permutations, ...].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """One statistic; ``value`` is None where there is none, and ``note`` then says why.

    ``chance`` is its mean over the permutations.
    """

    value: float | None
    chance: float | None = None
    p_value: float | None = None
    note: str = ""


def permuted_labels(labels: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """``[1 + num, tasks]``: the labels as they are, then permuted over the tasks."""
    draws = np.tile(labels, (num + 1, 1))
    draws[1:] = rng.permuted(draws[1:], axis=1)
    return draws


def permuted_places(size: int, num: int, rng: np.random.Generator) -> np.ndarray:
    """``[1 + num, size]``: 0, 1, ... as they are, then permuted."""
    return permuted_labels(np.arange(size), num, rng)


def measures(statistic: Statistic, draws: np.ndarray, rng: np.random.Generator) -> list[Measure]:
    """Tests whether values are larger than by chance; ``draws[0]`` is the true labelling."""
    parts = [statistic(draws[at : at + _CHUNK]) for at in range(0, len(draws), _CHUNK)]
    return from_null(np.concatenate(parts), rng)


def from_null(values: np.ndarray, rng: np.random.Generator) -> list[Measure]:
    """Measures of ``values [1 + permutations, measures]``; row 0 is the true one."""
    value, null = values[0], values[1:]
    if not len(null):
        return [Measure(float(v)) for v in value]
    p = p_values(
        (null > value + TIE).sum(axis=0), (abs(null - value) <= TIE).sum(axis=0), len(null), rng
    )
    return [
        Measure(float(v), float(c), float(q))
        for v, c, q in zip(value, null.mean(axis=0), p, strict=True)
    ]


def p_values(
    larger: np.ndarray, equal: np.ndarray, num: int, rng: np.random.Generator
) -> np.ndarray:
    """p = (1 + permutations before the true labelling) / (1 + num), ties in random order.

    With ties in random order (Dufour 2006, J. Econometrics 133, 443) p is uniform on 1/(1 + num),
    ..., 1 without structure, also of a statistic that takes few values; counting every tie as
    larger would be valid, but too large. Where all permutations tie there is no evidence: p = 1.

    Args:
        larger, equal: of ``num`` permutations, how many are larger and how many tie.
    """
    before = larger + rng.integers(0, equal + 1)
    return np.where(equal == num, 1.0, (1 + before) / (1 + num))
