"""What was lost when experts were disabled, against random ones of equal use?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

from analysis.permutation import TIE, from_null
from analysis.report.scores import mean_interval
from analysis.routes import column_order
from moe_tasks.evaluation.bootstrap import percentile_interval

NUM_DRAWS = 2000
COLUMN = ["stack", "layer", "expert"]


def dropping(table: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Drops (score with all experts minus score without one) per expert.

    An expert's ``drop`` is the mean over the tasks that it has the largest weight of, with a
    bootstrap 95% interval over these tasks; ``per_category`` the same by category. The
    ``control`` is a random expert of equal use: as many random tasks lose the expert that they
    use in one random layer. ``p_value``: the expert's place among such controls.

    Args:
        table: ``Run.ablation`` of one system.
    """
    used = _used(table)
    if used.empty:
        return {"note": "no expert that a task uses was disabled", "experts": []}
    rng = np.random.default_rng(seed)
    losses = used.pivot_table(index="task", columns=["stack", "layer"], values="drop")
    grid = losses.to_numpy()  # [tasks, layers], NaN where not evaluated
    null: dict[int, np.ndarray] = {}
    experts = []
    keys = set(zip(*(used[column].tolist() for column in COLUMN), strict=True))
    for place in sorted((dict(zip(COLUMN, key, strict=True)) for key in keys), key=column_order):
        own = pd.DataFrame(used[(used[COLUMN] == pd.Series(place)).all(axis=1)])
        drops = np.array(own["drop"].tolist(), dtype=float)
        if len(own) not in null:
            null[len(own)] = _control(grid, len(own), rng)
        control = null[len(own)]
        experts.append(
            {
                **place,
                "num_tasks": len(own),
                "drop": float(drops.mean()),
                "interval": mean_interval(drops, rng),
                "control": float(control.mean()),
                "control_interval": percentile_interval(control),
                "p_value": from_null(np.array([drops.mean(), *control])[:, None], rng)[0].p_value,
                "per_category": _per_category(own, rng),
                "hurt_most": own.nlargest(3, "drop")["task"].tolist(),
            }
        )
    return {"note": "", "num_tasks": len(losses), "experts": experts}


def _used(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the expert that has a task's largest weight in a layer (the first of equal ones)."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    total: dict[tuple[Any, ...], float] = defaultdict(float)
    for row in table.to_dict("records"):
        key = row["task"], row["stack"], row["layer"]
        total[key] += row["weight"]
        if row["weight"] > found.get(key, {"weight": 0.0})["weight"]:
            found[key] = row
    # An expert of the layer that was not disabled may have what is left to one.
    rows = [row for key, row in found.items() if row["weight"] >= 1 - total[key] - TIE]
    return pd.DataFrame(rows, columns=table.columns)


def _control(grid: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Mean drops of random groups of ``size`` tasks in one random layer: ``[draws]``."""
    order = rng.random((NUM_DRAWS, len(grid))).argsort(axis=1)[:, :size]
    layers = rng.integers(grid.shape[1], size=(NUM_DRAWS, 1))
    drawn = grid[order, layers]
    drawn = drawn[np.isfinite(drawn).any(axis=1)]
    return np.nanmean(drawn, axis=1)


def _per_category(own: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    return {
        str(category): {
            "num_tasks": len(drops),
            "drop": float(drops.mean()),
            "interval": mean_interval(drops, rng),
        }
        for category in sorted(set(own["category"].tolist()))
        for drops in [np.array(own["drop"][own["category"] == category].tolist(), dtype=float)]
    }
