"""Scores of the systems of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.runs import Run, score_rows
from moe_tasks.evaluation.bootstrap import percentile_interval
from moe_tasks.evaluation.scores import ordered_systems, task_means

_NUM_BOOTSTRAP = 2000


def score_means(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """``train`` and ``unseen`` -> system -> task -> mean score."""
    tables = {"train": run.train_scores, "unseen": run.scores}
    return {key: task_means(score_rows(table)) for key, table in tables.items()}


def mean_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float] | None:
    """Bootstrap 95% interval of the mean of ``values [tasks]``; None for fewer than two."""
    if len(values) < 2:
        return None
    drawn = rng.integers(len(values), size=(_NUM_BOOTSTRAP, len(values)))
    return percentile_interval(values[drawn].mean(axis=1))


def system_scores(run: Run) -> list[dict[str, Any]]:
    """Per system: mean train and unseen scores, and gains over the dense multi-task model."""
    found = score_means(run)
    rows = []
    for system in ordered_systems([*score_rows(run.scores), *score_rows(run.train_scores)]):
        train, unseen = (found[key].get(system, {}) for key in ("train", "unseen"))
        gain = run.gains.get(f"{system}_over_multitask")
        rows.append(
            {
                "system": system,
                "train_score": _mean(train.values()),
                "unseen_score": _mean(unseen.values()),
                "num_unseen": len(unseen),
                "average_relative_gain": gain.average if gain else None,
                "interval": gain.interval if gain else None,
            }
        )
    return rows


def _mean(values: Any) -> float | None:
    found: Sequence[float] = list(values)
    return float(np.mean(found)) if found else None
