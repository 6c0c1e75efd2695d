"""Synthetic run folders with everything that a report reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import save_file
from scipy.special import softmax

from analysis.runs import ABLATION_COLUMNS, ROUTE_COLUMNS, SCORE_COLUMNS


def write_folder(
    path: Path,
    *,
    num_tasks: int = 30,
    num_layers: int = 2,
    num_experts: int = 3,
    num_steps: int = 3,
    num_categories: int = 5,
    planted: float = 1.0,
    extractive_logit: float = 3.0,
    seed: int = 0,
    hard: bool = False,
    names: dict[str, str] | None = None,
    ablation: bool = False,
) -> Path:
    """A run whose tasks of one category share their routes with probability ``planted``.

    ``extractive`` tasks (every third) use expert 0 of decoder layer 0 more, by so much logit.
    """
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = names or {}
    tasks = [names.get(f"task_{t}", f"task_{t}") for t in range(num_tasks)]
    category = np.arange(num_tasks) * num_categories // num_tasks
    categories = [names.get(f"cat_{c}", f"cat_{c}") for c in category]
    logits = _logits(rng, category, planted, (2, num_layers, num_experts))
    extractive = np.arange(num_tasks) % 3 == 0
    logits[extractive, 1, 0, 0] += extractive_logit
    frames = []
    for number in range(num_steps):
        share = (number + 1) / num_steps
        start = np.random.default_rng(seed + 1).normal(size=logits.shape)
        weights = softmax(3 * (share * logits + (1 - share) * start), axis=-1)
        if hard:
            weights = (weights == weights.max(-1, keepdims=True)).astype(float)
        frames.append(_frame(100 * number, tasks, categories, weights))
    pd.concat(frames).to_parquet(path / "routes.parquet")
    (path / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "systems": {"moe": {}}}))
    facts = {
        task: {
            "category": categories[t],
            "extractive": bool(extractive[t]),
            "output_words": float(rng.integers(1, 20)),
            "constant": 1,
            "language": ["en", "de", "fr"][t % 3],
        }
        for t, task in enumerate(tasks)
    }
    (path / "tasks.json").write_text(json.dumps(facts))
    _write_scores(path, tasks, categories, rng)
    _write_checkpoint(path, tasks, logits, rng)
    if ablation:
        _write_ablation(path, tasks, categories, frames[-1])
    return path


def _logits(
    rng: np.random.Generator, category: np.ndarray, planted: float, shape: tuple[int, ...]
) -> np.ndarray:
    shared = rng.normal(size=(category.max() + 1, *shape))[category]
    own = rng.normal(size=(len(category), *shape))
    follows = (rng.random(len(category)) < planted).reshape(-1, 1, 1, 1)
    return np.where(follows, shared + 0.02 * own, own)


def _frame(step: int, tasks: list[str], categories: list[str], weights: np.ndarray) -> pd.DataFrame:
    T = len(weights)
    places = np.indices(weights.shape).reshape(4, -1)
    stacks = np.array(["encoder", "decoder"])
    columns = (
        np.full(weights.size, step),
        np.array(tasks, dtype=object)[places[0]],
        np.array(categories, dtype=object)[places[0]],
        np.array([f"sub_{t * T // max(T, 1) // 4}" for t in range(T)], dtype=object)[places[0]],
        stacks[places[1]],
        places[2],
        places[3],
        weights.ravel(),
    )
    return pd.DataFrame(dict(zip(ROUTE_COLUMNS, columns, strict=True)))


def _write_scores(
    path: Path, tasks: list[str], categories: list[str], rng: np.random.Generator
) -> None:
    rows = [
        (system, task, category, "", "test", "ACC", base + gain * rng.random())
        for system, base, gain in (("multitask", 0.4, 0.1), ("moe", 0.5, 0.3))
        for task, category in zip(tasks, categories, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    frame.to_csv(path / "train_scores.csv", index=False)
    unseen = frame.assign(task="new " + frame["task"], sample="13")
    unseen.to_csv(path / "scores.csv", index=False)


def _write_checkpoint(
    path: Path, tasks: list[str], logits: np.ndarray, rng: np.random.Generator
) -> None:
    folder = path / "checkpoints" / "moe" / "step-000100"
    folder.mkdir(parents=True)
    (folder.parent / "last.json").write_text(json.dumps({"checkpoint": folder.name}))
    meta: dict[str, Any] = {"tasks": tasks, "kind": "task_moe", "config": {"router": "linear"}}
    (folder / "task_moe.json").write_text(json.dumps(meta))
    _, _, L, m = logits.shape
    tensors = {"task_vectors": logits.reshape(len(tasks), -1).astype(np.float32)}
    for stack in ("encoder", "decoder"):
        for layer in range(L):
            for expert in range(m):
                name = f"backbone.model.{stack}.layers.{layer}.fc1.experts.{expert}.weight"
                tensors[name] = rng.normal(size=(8, 4)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def _write_ablation(
    path: Path, tasks: list[str], categories: list[str], routes: pd.DataFrame
) -> None:
    """Expert 1 of decoder layer 1 is worth 0.4 of score, every other one 0.02."""
    rows = []
    used = routes[routes["weight"] > 0.5]
    for row in used.to_dict("records"):
        worth = 0.4 if (row["stack"], row["layer"], row["expert"]) == ("decoder", 1, 1) else 0.02
        values = (
            "moe", row["task"], row["category"], "ACC", 50, row["stack"], row["layer"],
            row["expert"], row["weight"], 0.8, 0.8 - worth, worth, worth - 0.01, worth + 0.01,
        )  # fmt: skip
        rows.append(dict(zip(ABLATION_COLUMNS, values, strict=True)))
    (path / "ablation").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "ablation" / "moe.jsonl").write_text(text)
