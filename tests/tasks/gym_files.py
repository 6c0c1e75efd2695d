"""Writes small folders in the gym's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import TaskCollection
from moe_tasks.tasks.gym import GymTasks

SAMPLES = ("13", "21")
SPLITS = ("train", "dev", "test")


def entry(metric: str = "EM", **more: Any) -> dict[str, Any]:
    return {"metric": metric, "category": "some", "subcategory": "thing", **more}


def lines_of(split: str, sample: str, outputs: tuple[str, ...], count: int = 4) -> bytes:
    rows = [f"{split} {sample} input {i}\t{outputs[i % len(outputs)]}\n" for i in range(count)]
    return "".join(rows).encode()


def write_gym(
    root: Path,
    tasks: dict[str, dict[str, Any]],
    roles: dict[str, list[str]] | None = None,
    count: int = 4,
) -> Path:
    """Each task with ``count`` rows in each file; outputs are its labels, or words."""
    for name, own in tasks.items():
        (root / name).mkdir(parents=True)
        outputs = tuple(own.get("labels", ("one", "two", "three")))
        for sample in SAMPLES:
            for split in SPLITS:
                path = root / name / f"{name}_16_{sample}_{split}.tsv"
                path.write_bytes(lines_of(split, sample, outputs, count))
    (root / "splits").mkdir()
    roles = roles or {"train": list(tasks), "dev": [], "test": []}
    (root / "splits" / "random.json").write_text(json.dumps(roles))
    (root / "tasks.json").write_text(json.dumps(tasks))
    return root


def gym(root: Path, **keys: Any) -> GymTasks:
    return GymTasks(str(root), **{"cache_dir": str(root.parent / "cache"), **keys})


def attempt(build: Callable[[], TaskCollection]) -> tuple[TaskCollection | None, str]:
    """What was built and "", or None and the one message; any other error passes."""
    try:
        return build(), ""
    except UserError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None, message


def files_and_times(folder: Path) -> dict[Path, tuple[int, int]]:
    """Of every file below ``folder``: its inode and when it was written."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def cache_files(root: Path) -> list[Path]:
    folder = root.parent / "cache"
    return sorted(folder.iterdir()) if folder.exists() else []
