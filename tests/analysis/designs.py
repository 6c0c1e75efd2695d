"""Configurations of a design study, and its rows by label."""

from __future__ import annotations

from typing import Any

from analysis.study_runs import Study, StudyRow

SYSTEMS = {"multitask": {"model": "dense"}, "moe": {"model": "moe"}}
SCHEDULE = {"start": 2.0, "end": 0.3, "rate": None}
SELECTIONS: dict[str, dict[str, Any]] = {
    "gumbel_st": {"name": "gumbel_st", "temperature_schedule": SCHEDULE},
    "average": {"name": "average"},
}


def config(router: str = "linear", selection: str = "gumbel_st", **changes: Any) -> dict[str, Any]:
    """Keys of a run that has ``SYSTEMS``, as the trainer writes them."""
    hidden = 64 if router == "linear" else 32
    return {
        "name": "fewshot",
        "systems": SYSTEMS,
        "router": {"name": router, "num_experts": 3, "hidden_dim": hidden},
        "selection": SELECTIONS[selection],
        "training": {"steps": 600, "router_learning_rate": 0.01},
        "adaptation": {"steps": 40},
        **changes,
    }


def by_label(study: Study) -> dict[str, list[StudyRow]]:
    found: dict[str, list[StudyRow]] = {}
    for row in study.rows:
        found.setdefault(row.label, []).append(row)
    return found


def ratios(study: Study) -> dict[str, list[float]]:
    return {
        label: [round(row.ratio, 6) for row in rows if row.ratio is not None]
        for label, rows in by_label(study).items()
    }
