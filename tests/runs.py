"""Small complete runs: a few tasks in files, a tiny backbone, a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LABELS = {"colour": ["red", "blue"], "size": ["big", "small"], "taste": ["sweet", "sour"]}
WORDS = ["apple", "house", "river", "stone", "cloud", "bread", "horse", "table", "night", "field"]


def write_tasks(folder: Path) -> Path:
    """A folder collection: five train tasks in two categories, a dev and two test tasks."""
    roles = {}
    for name, role in {
        "colour-a": "train", "colour-b": "train", "size-a": "train", "size-b": "train",
        "taste-a": "train", "colour-dev": "dev", "size-test": "test", "taste-test": "test",
    }.items():  # fmt: skip
        kind = name.split("-")[0]
        roles[name] = {"role": role, "category": kind, "metric": "ACC"}
        for split, count, shift in (("train", 60, 0), ("dev", 40, 1), ("test", 12, 2)):
            rows = [
                {
                    "input": f"{WORDS[i % 10]} {name} {split} {i}",
                    "output": LABELS[kind][(i + shift) % 2],
                    "options": LABELS[kind],
                }
                for i in range(count)
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.{split}.jsonl").write_text(text)
    import yaml

    (folder / "tasks.yaml").write_text(yaml.safe_dump(roles))
    return folder


def values(tasks: Path, **changes: Any) -> dict[str, Any]:
    """The configuration of a run that takes seconds."""
    base: dict[str, Any] = {
        "name": "test",
        "seed": 0,
        "tasks": {"name": "folder", "path": str(tasks), "cache_dir": str(tasks / ".cache")},
        "backbone": {
            "name": "tiny", "family": "bart", "width": 16, "heads": 2, "ffn": 16,
            "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 320, "positions": 64,
            "dropout": 0.1, "pretraining": {"steps": 4, "batch_size": 4},
        },
        "selection": {"name": "gumbel_st"},
        "task_vectors": {"name": "text", "examples": 4},
        "sampling": {"name": "uniform", "tasks_per_batch": 3, "rows_per_task": 2},
        "systems": {
            "direct": {"model": "dense", "train": False},
            "multitask": {"model": "dense"},
            "moe": {},
        },
        "data": {"max_source": 40, "max_target": 8, "cache_dir": str(tasks / ".cache")},
        "training": {
            "steps": 8, "learning_rate": 1e-3, "eval_every": 4, "save_every": 2, "log_every": 2,
        },
        "adaptation": {
            "samples": 2, "learning_rates": [1e-2, 3e-2], "batch_sizes": [8], "steps": 24,
            "eval_every": 12, "workers": 1, "clip": 1.0, "warmup": 0.0,
        },
        "logging": {"progress": False, "wandb": "disabled", "report": False},
    }  # fmt: skip
    return {**base, **changes}
