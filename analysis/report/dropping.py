"""What was lost when experts were disabled, against random groups of equal use?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.routes import column_order
from moe_tasks.evaluation.bootstrap import percentile_interval, resampled_means

NUM_DRAWS = 2000
COLUMN = ["stack", "layer", "expert"]
USED = 0.5


def dropping(table: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Drops (score with all experts minus score without one) per expert.

    An expert's ``drop`` is the mean over the tasks that it has the largest weight of, with a
    bootstrap 95% interval over these tasks; ``per_category`` the same by category. The
    ``control`` is a random expert of equal use: as many random tasks lose the expert that they
    use in one random layer. ``p_value``: share of such controls that lose at least as much.

    Args:
        table: ``Run.ablation`` of one system; a task appears in a layer once with ``weight``
            above one half, or not at all.
    """
    used = pd.DataFrame(table[table["weight"] > USED])
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
                "interval": _interval(drops, rng),
                "control": float(control.mean()),
                "control_interval": percentile_interval(control),
                "p_value": float((1 + (control >= drops.mean() - 1e-9).sum()) / (1 + len(control))),
                "per_category": _per_category(own, rng),
                "hurt_most": own.nlargest(3, "drop")["task"].tolist(),
            }
        )
    return {"note": "", "num_tasks": len(losses), "experts": experts}


def _control(grid: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Mean drops of random groups of ``size`` tasks in one random layer: ``[draws]``."""
    order = rng.random((NUM_DRAWS, len(grid))).argsort(axis=1)[:, :size]
    layers = rng.integers(grid.shape[1], size=(NUM_DRAWS, 1))
    drawn = grid[order, layers]
    drawn = drawn[np.isfinite(drawn).any(axis=1)]
    return np.nanmean(drawn, axis=1)


def _interval(drops: np.ndarray, rng: np.random.Generator) -> tuple[float, float] | None:
    if len(drops) < 2:
        return None
    return percentile_interval(resampled_means([d[None, None] for d in drops], 2000, rng)[:, 0])


def _per_category(own: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    return {
        str(category): {
            "num_tasks": len(drops),
            "drop": float(drops.mean()),
            "interval": _interval(drops, rng),
        }
        for category in sorted(set(own["category"].tolist()))
        for drops in [np.array(own["drop"][own["category"] == category].tolist(), dtype=float)]
    }
