"""Drops when one expert of every layer is disabled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.report.dropping import dropping
from analysis.report.groups import group_drops


def row(task: str, group: str, weight: float, drop: float) -> dict[str, object]:
    return {"task": task, "group": group, "weight": weight, "drop": drop}


def test_controls_take_as_much_of_the_route_away() -> None:
    rows = [
        row("a", "expert 0 of every layer", 2.0, 0.5),
        row("b", "expert 0 of every layer", 1.0, 0.1),
        row("a", "random 0", 2.0, 0.2),
        row("a", "random 1", 2.0, 0.4),
        row("a", "random 2", 1.0, 0.9),
        row("b", "random 0", 3.0, 0.7),
        row("b", "random 1", 2.0, 0.1),
    ]
    (found,) = group_drops(pd.DataFrame(rows))
    assert (found["group"], found["num_tasks"]) == ("expert 0 of every layer", 2)
    assert found["drop"] == pytest.approx(0.3)
    assert found["control"] == pytest.approx((0.3 + 0.1) / 2)
    assert found["excess"] == pytest.approx(0.1)
    assert found["excess_interval"] == pytest.approx((0.0, 0.2))


def test_without_random_groups_there_is_no_control() -> None:
    (found,) = group_drops(pd.DataFrame([row("a", "expert 0 of every layer", 2.0, 0.5)]))
    assert (found["control"], found["excess"], found["excess_interval"]) == (None, None, None)


def test_a_mixture_counts_for_its_largest_expert() -> None:
    weights = np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]])
    rows = [
        {"task": f"t{task}", "category": "c", "stack": "encoder", "layer": 0,
         "expert": expert, "weight": weights[task, expert], "drop": 0.1 * expert}
        for task in range(2)
        for expert in range(3)
    ]  # fmt: skip
    found = dropping(pd.DataFrame(rows))["experts"]
    assert [(e["expert"], e["num_tasks"]) for e in found] == [(0, 1), (2, 1)]
    # Of t0 only expert 1 was disabled: another one may have more.
    part = [r for r in rows if r["task"] == "t1" or r["expert"] == 1]
    assert [e["expert"] for e in dropping(pd.DataFrame(part))["experts"]] == [2]
