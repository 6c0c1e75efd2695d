"""What was lost when one expert of every layer was disabled, against random ones?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.permutation import TIE
from analysis.report.scores import mean_interval

_Row = Mapping[Any, Any]


def group_drops(table: pd.DataFrame, *, seed: int = 0) -> list[dict[str, Any]]:
    """Drops when one expert of every layer is disabled, means over the tasks that use any of them.

    ``control``: each of these tasks under the random groups that take as much of its route away.
    ``excess``: drop minus control, with a bootstrap 95% interval over tasks.

    Args:
        table: ``Run.ablation_groups`` of one system.
    """
    groups: dict[str, list[_Row]] = defaultdict(list)
    random: dict[str, list[_Row]] = defaultdict(list)  # by task
    for row in table.to_dict("records"):
        if row["group"].startswith("random "):
            random[row["task"]].append(row)
        else:
            groups[row["group"]].append(row)
    rng = np.random.default_rng(seed)
    return [_of_group(name, groups[name], random, rng) for name in sorted(groups)]


def _of_group(
    name: str, own: list[_Row], random: Mapping[str, list[_Row]], rng: np.random.Generator
) -> dict[str, Any]:
    drops = np.array([row["drop"] for row in own])
    known = [(row["drop"], _like(row, random[row["task"]])) for row in own if row["task"] in random]
    control = np.array([alike for _, alike in known])
    excess = np.array([drop - alike for drop, alike in known])
    return {
        "group": name,
        "num_tasks": len(own),
        "drop": float(drops.mean()),
        "interval": mean_interval(drops, rng),
        "control": float(control.mean()) if known else None,
        "excess": float(excess.mean()) if known else None,
        "excess_interval": mean_interval(excess, rng),
    }


def _like(row: _Row, controls: Sequence[_Row]) -> float:
    """Mean drop of the controls that take as much away as ``row``, or most nearly so."""
    apart = [abs(control["weight"] - row["weight"]) for control in controls]
    alike = [c["drop"] for c, a in zip(controls, apart, strict=True) if a <= min(apart) + TIE]
    return float(np.mean(alike))
