"""How decided are routes, and how evenly are experts used?"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.routes import Snapshot


def load_statistics(shot: Snapshot) -> list[dict[str, Any]]:
    """Per layer; entropies are in units of log m, 0 (one expert) to 1 (all equal; 0 for m = 1).

    ``route_entropy``: mean over tasks. ``load``: share of all routes that each expert has.
    ``load_entropy``: of the load. ``effective_experts``: exp of the load's entropy.
    ``specialisation``: ``load_entropy - route_entropy``, the mutual information of task and
    expert. ``unused_experts``: largest weight of no task.
    """
    rows = []
    for at, chosen in zip(shot.layers, shot.hard_experts, strict=True):
        weights = shot.weights[:, at.columns]
        load = weights.mean(axis=0)
        scale = np.log(at.num_experts) if at.num_experts > 1 else np.inf
        route, overall = float((entropy(weights) / scale).mean()), float(entropy(load) / scale)
        rows.append(
            {
                "stack": at.stack,
                "layer": at.layer,
                "num_experts": at.num_experts,
                "route_entropy": route,
                "load_entropy": overall,
                "specialisation": max(overall - route, 0.0),
                "effective_experts": float(np.exp(entropy(load))),
                "largest_load": float(load.max()),
                "unused_experts": sorted(set(range(at.num_experts)) - set(chosen.tolist())),
                "load": load.tolist(),
            }
        )
    return rows


def entropy(p: np.ndarray) -> np.ndarray:
    """Nats, of the last axis."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)
