"""Which experts go with which features of tasks?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, rankdata

from analysis.facts import Feature, features
from analysis.permutation import TIE, p_values
from analysis.routes import Snapshot

NUM_PERMUTATIONS, NUM_BOOTSTRAP = 19_999, 1000
LEVEL = 0.05
_CHUNK = 2000


@dataclass(frozen=True)
class Pair:
    """Correlation of an expert's weight with a feature over tasks.

    Attributes:
        method: ``point_biserial`` (binary features) or ``spearman``.
        r: the correlation; low, high: its bootstrap 95% interval over tasks (of fixed ranks for
            Spearman); None where a bound is undefined.
        difference: mean weight of tasks with the feature minus without; None for numbers.
        p_value: two-sided, by permuting the feature over tasks.
        q_value: ``p_value`` adjusted over all pairs (Benjamini & Hochberg 1995).
    """

    stack: str
    layer: int
    expert: int
    feature: str
    method: str
    num_tasks: int
    r: float
    low: float | None
    high: float | None
    difference: float | None
    p_value: float
    q_value: float


def association(
    shot: Snapshot,
    facts: pd.DataFrame,
    *,
    num_permutations: int = NUM_PERMUTATIONS,
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
) -> dict[str, Any]:
    """``pairs`` (strongest first), ``features``, ``left_out`` with reasons, and ``in_words``."""
    used, left_out = features(facts, shot.tasks["task"])
    names = [
        (layer.stack, layer.layer, expert)
        for layer in shot.layers
        for expert in range(layer.num_experts)
    ]
    moving = [c for c in range(len(names)) if np.ptp(shot.weights[:, c]) > TIE]
    rows: list[dict[str, Any]] = []
    for feature in used if moving else []:
        rng = np.random.default_rng(seed)
        found = _one_feature(shot.weights[:, moving], feature, num_permutations, num_bootstrap, rng)
        rows += [
            {**dict(zip(("stack", "layer", "expert"), names[moving[c]], strict=True)), **row}
            for c, row in enumerate(found)
            if row is not None
        ]
    if rows:
        q_values = false_discovery_control([row["p_value"] for row in rows])
        rows = [{**row, "q_value": float(q)} for row, q in zip(rows, q_values, strict=True)]
    pairs = sorted((Pair(**row) for row in rows), key=lambda pair: -abs(pair.r))
    return {
        "features": [feature.name for feature in used],
        "left_out": left_out,
        "constant_experts": [list(names[c]) for c in range(len(names)) if c not in moving],
        "num_pairs": len(pairs),
        "num_significant": sum(pair.q_value <= LEVEL for pair in pairs),
        "in_words": [in_words(pair) for pair in pairs if pair.q_value <= LEVEL][:10],
        "pairs": [asdict(pair) for pair in pairs],
    }


def in_words(pair: Pair) -> str:
    """``decoder layer 3 expert 1 goes with extractive tasks: r = .61``."""
    expert = f"{pair.stack} layer {pair.layer} expert {pair.expert}"
    if pair.method == "spearman":
        verb = "goes with more" if pair.r > 0 else "goes with less"
        return f"{expert} {verb} {pair.feature}: rho = {pair.r:.2f}"
    verb = "goes with" if pair.r > 0 else "avoids"
    return f"{expert} {verb} {pair.feature} tasks: r = {pair.r:.2f}"


def _one_feature(
    weights: np.ndarray, feature: Feature, num: int, num_bootstrap: int, rng: np.random.Generator
) -> list[dict[str, Any] | None]:
    known = np.isfinite(feature.values)
    x, y = weights[known], feature.values[known]
    T, binary = len(y), feature.kind == "binary"
    if not binary:
        x, y = rankdata(x, axis=0), rankdata(y)
    constant = np.ptp(x, axis=0) <= TIE
    x_unit = _unit(x)
    y_unit = _unit(y[:, None])[:, 0]
    r = y_unit @ x_unit  # [columns]
    larger, equal = np.zeros((2, len(r)), dtype=int)
    for start in range(0, num, _CHUNK):
        drawn = rng.permuted(np.tile(y_unit, (min(_CHUNK, num - start), 1)), axis=1)
        more = np.abs(drawn @ x_unit) - np.abs(r)
        larger += (more > TIE).sum(axis=0)
        equal += (abs(more) <= TIE).sum(axis=0)
    p = p_values(larger, equal, num, rng)
    low, high = _intervals(x, y, num_bootstrap, rng)
    gap = weights[known][y == 1].mean(0) - weights[known][y == 0].mean(0) if binary else None
    return [
        None
        if constant[c]
        else {
            "feature": feature.name,
            "method": "point_biserial" if binary else "spearman",
            "num_tasks": T,
            "r": float(r[c]),
            "low": _number(low[c]),
            "high": _number(high[c]),
            "difference": None if gap is None else float(gap[c]),
            "p_value": float(p[c]),
        }
        for c in range(len(r))
    ]


def _unit(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and length 1 (zeros where constant)."""
    centred = values - values.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=0)
    return centred / np.where(lengths > TIE, lengths, np.inf)


def _intervals(
    x: np.ndarray, y: np.ndarray, num: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile 95% intervals of the correlations ``[columns]``; NaN with too few draws."""
    T = len(y)
    if num == 0:
        none = np.full(x.shape[1], math.nan)
        return none, none
    share = rng.multinomial(T, np.full(T, 1 / T), size=num) / T  # [B, T]
    x, y = x - x.mean(axis=0), y - y.mean()
    mean_x, mean_y = share @ x, (share @ y)[:, None]
    spread_x = share @ x**2 - mean_x**2
    spread_y = (share @ y**2)[:, None] - mean_y**2
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (share @ (x * y[:, None]) - mean_x * mean_y) / np.sqrt(spread_x * spread_y)
    r[(spread_x <= TIE) | (spread_y <= TIE)] = math.nan  # a resample in which one is constant
    enough = np.isfinite(r).sum(axis=0) >= 0.9 * num
    r[:, ~enough] = 0.0
    low, high = np.nanpercentile(r, [2.5, 97.5], axis=0)
    return np.where(enough, low, math.nan), np.where(enough, high, math.nan)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
