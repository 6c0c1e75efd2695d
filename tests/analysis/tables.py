"""Route and score tables with a planted structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.special import softmax

from analysis.routes import Snapshot, snapshot
from analysis.runs import ROUTE_COLUMNS, SCORE_COLUMNS


def route_table(
    strength: float,
    *,
    num_tasks: int = 30,
    num_categories: int = 5,
    num_layers: int = 2,
    num_experts: int = 3,
    seed: int = 0,
    hard: bool = False,
    step: int = 100,
) -> pd.DataFrame:
    """Tasks of one category share ``strength`` times a random route; tasks lie by category."""
    rng = np.random.default_rng(seed)
    shape = (2, num_layers, num_experts)
    shared = rng.normal(size=(num_categories, *shape))
    rows = []
    for task in range(num_tasks):
        category = task * num_categories // num_tasks
        logits = 2 * (strength * shared[category] + rng.normal(size=shape))
        weights = softmax(logits, axis=-1)
        if hard:
            weights = (weights == weights.max(-1, keepdims=True)).astype(float)
        rows += [
            (step, f"task_{task}", f"cat_{category}", f"sub_{task % 3}", stack, layer, expert, w)
            for s, stack in enumerate(("encoder", "decoder"))
            for layer in range(num_layers)
            for expert, w in enumerate(weights[s, layer])
        ]
    return pd.DataFrame(rows, columns=list(ROUTE_COLUMNS))


def shot(strength: float, **options: Any) -> Snapshot:
    """The snapshot of ``route_table``."""
    return snapshot(route_table(strength, **options))


def score_table(
    effects: dict[str, float], *, seed: int = 0, num_tasks: int = 12, split: str = "test"
) -> pd.DataFrame:
    """Scores base * (1 + effect + noise) per system; two samples per task."""
    rng = np.random.default_rng(seed)
    rows = []
    for task in range(num_tasks):
        base = rng.uniform(0.3, 0.8)
        rows += [
            (system, f"new_{task}", f"cat_{task % 4}", sample, split, "EM", base * (1 + effect))
            for sample in ("100", "13")
            for system, effect in effects.items()
        ]
    frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    frame["score"] *= 1 + rng.normal(0, 0.01, size=len(frame))
    return frame


def write_run(
    path: Path, scores: pd.DataFrame, *, seed: int = 0, split: str = "a", **config: Any
) -> Path:
    """A run folder as the trainer writes it, with routes of ``moe`` and ``moe_untrained``."""
    (path / "routes").mkdir(parents=True)
    content = {"seed": seed, "run_dir": str(path), "tasks": {"split": split}, **config}
    (path / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    scores.to_csv(path / "scores.csv", index=False)
    scores.assign(sample="", split="dev").drop_duplicates(["system", "task"]).to_csv(
        path / "train_scores.csv", index=False
    )
    route_table(2.0, seed=seed).to_parquet(path / "routes.parquet")
    route_table(0.0, seed=seed).to_parquet(path / "routes" / "moe_untrained.parquet")
    return path


def write_scored(
    path: Path,
    means: dict[str, tuple[float, ...]],
    *,
    seed: int = 0,
    split: str = "a",
    **config: Any,
) -> Path:
    """A run folder without routes; ``means``: system -> test score of each unseen task."""
    path.mkdir(parents=True)
    content = {"seed": seed, "run_dir": str(path), "tasks": {"split": split}, **config}
    (path / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    rows = [
        (system, f"new_{task}", "cat", "0", "test", "EM", score)
        for system, scores in means.items()
        for task, score in enumerate(scores)
    ]
    frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    frame.to_csv(path / "scores.csv", index=False)
    frame.assign(sample="", score=frame["score"] + 0.1).to_csv(
        path / "train_scores.csv", index=False
    )
    return path
