"""Systems of all runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.runs import Run, score_rows
from moe_tasks.evaluation.scores import ordered_systems, task_means


def system_scores(run: Run) -> list[dict[str, Any]]:
    """Per system: mean train and unseen scores, and gains over the dense multi-task model."""
    unseen, train = score_rows(run.scores), score_rows(run.train_scores)
    means, train_means = task_means(unseen), task_means(train)
    rows = []
    for system in ordered_systems([*unseen, *train]):
        gain = run.gains.get(f"{system}_over_multitask")
        rows.append(
            {
                "system": system,
                "train_score": _mean(train_means.get(system, {}).values()),
                "unseen_score": _mean(means.get(system, {}).values()),
                "num_unseen": len(means.get(system, {})),
                "average_relative_gain": gain.average if gain else None,
                "interval": gain.interval if gain else None,
            }
        )
    return rows


def _mean(values: Any) -> float | None:
    found: Sequence[float] = list(values)
    return float(np.mean(found)) if found else None
