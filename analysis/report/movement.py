"""How do routes move during training?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.permutation import Measure
from analysis.report.clusters import label_statistics
from analysis.routes import Snapshot


def movement(
    shots: Sequence[Snapshot], *, num_permutations: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Per snapshot; distances are total variation (0 to 1), means over tasks and layers.

    ``from_previous``, ``from_first``, ``to_last``: distances. ``changed``: share of (task, layer)
    whose hard expert is another than in the previous snapshot. ``by_layer``: ``from_previous``
    of each. ``similarity_gap``: agreement with categories at this step. Values that compare
    snapshots of different tasks or layers are None.
    """
    rows = []
    for number, shot in enumerate(shots):
        previous = shots[number - 1] if number else None
        layers = None if previous is None else _by_layer(previous, shot)
        rows.append(
            {
                "step": shot.step,
                "from_previous": None if layers is None else float(np.mean(layers)),
                "from_first": _mean(_by_layer(shots[0], shot)),
                "to_last": _mean(_by_layer(shot, shots[-1])),
                "changed": None
                if previous is None or layers is None
                else float((previous.hard_experts != shot.hard_experts).mean()),
                "by_layer": None
                if layers is None
                else {at.name: d for at, d in zip(shot.layers, layers, strict=True)},
                "similarity_gap": asdict(_gap(shot, num_permutations, seed)),
            }
        )
    return rows


def _mean(values: list[float] | None) -> float | None:
    return None if values is None else float(np.mean(values))


def _by_layer(a: Snapshot, b: Snapshot) -> list[float] | None:
    same = a.tasks["task"].tolist() == b.tasks["task"].tolist() and a.layers == b.layers
    if not same:
        return None
    apart = np.abs(a.weights - b.weights) / 2
    return [float(apart[:, at.columns].sum(axis=1).mean()) for at in a.layers]


def _gap(shot: Snapshot, num_permutations: int, seed: int) -> Measure:
    labels = shot.tasks["category"].tolist()
    return label_statistics(shot.distances, labels, num_permutations, seed, ("similarity_gap",))[
        "similarity_gap"
    ]
