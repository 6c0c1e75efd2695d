"""What must be the same for a run to be continued exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.training.config import TrainingConfig
from moe_tasks.training.data import Batches
from moe_tasks.training.model import Trainable


def describe(
    config: TrainingConfig,
    batches: Batches,
    model: Trainable,
    seed: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """JSON-able description of everything that decides a run's weights, key by key."""
    training = {f"training.{key}": value for key, value in config.trajectory.items()}
    tasks = list(model.task_names)
    return {**training, **batches.fingerprint(), "seed": seed, "model tasks": tasks, **facts}


def require_same(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Compare a checkpoint's description with this run's.

    Raises:
        UserError: naming the keys that differ, with both values.
    """
    changed = [
        f"{key} was {then.get(key)!r:.60} and is {now.get(key)!r:.60}"
        for key in dict.fromkeys((*then, *now))
        if then.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{path} belongs to another configuration: {'; '.join(changed[:5])}. "
            "Give the same values to continue, or choose another run_dir"
        )
