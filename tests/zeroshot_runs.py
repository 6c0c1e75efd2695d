"""A small run on prompted tasks: three to train on, three unseen in two wordings each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_tasks import experiment
from tests.runs import values
from tests.tasks.prompted_files import Rows, write_settings, write_task

COLOURS = ["red", "blue", "green"]
SYSTEMS = {
    "multitask": {"model": "dense"},
    "moe": {},
    "moe_inputs": {"task_vectors": {"name": "inputs", "examples": 4}},
    "moe_learned": {"task_vectors": {"name": "learned", "dim": 8}},
}


def wordings(question: str, **keys: Any) -> dict[str, Any]:
    return {
        "before": {"input": question + " {{ text }}", "target": "{{ answer }}", **keys},
        "after": {"input": "{{ text }} " + question, "target": "{{ answer }}", **keys},
    }


def rows(count: int, kind: str) -> Rows:
    return [
        {"text": f"{kind} {n} is {COLOURS[n % 3]}", "answer": COLOURS[n % 3], "n": n % 3}
        for n in range(count)
    ]


def write_prompted(root: Path) -> Path:
    """Train: three tasks. Unseen: ``fixed`` (three options), ``own`` (2 to 4 options of their own
    length per row), ``open`` (no options)."""
    choices = {"answer_choices": " ||| ".join(COLOURS)}
    for kind in ("hat", "coat", "shoe"):
        question = f"colour of the {kind} ?"
        write_task(root, kind, {"train": rows(60, kind)}, wordings(question, **choices))
    write_task(root, "fixed", {"test": rows(12, "sock")}, wordings("which colour ?", **choices))
    own = [
        {**row, "choices": [row["answer"], "a very long other answer", "pink", "no"][: 2 + n % 3]}
        for n, row in enumerate(rows(12, "belt"))
    ]
    per_row = {"answer_choices": "{{ choices | join('|||') }}"}
    write_task(root, "own", {"test": own}, wordings("say the colour !", **per_row))
    write_task(root, "open", {"test": rows(12, "scarf")}, wordings("tell the colour"))
    unseen = {"role": "test", "category": "unseen", "instruction": "name a colour"}
    write_settings(root, dict.fromkeys(("fixed", "own", "open"), unseen))
    return root


def run_values(root: Path, **changes: Any) -> dict[str, Any]:
    cache = str(root.parent / "cache")
    base = values(root)
    return {
        **base,
        "tasks": {"name": "prompted", "path": str(root), "cache_dir": cache},
        "task_vectors": {"name": "prompt"},
        "systems": SYSTEMS,
        "data": {**base["data"], "cache_dir": cache},
        "adaptation": {**base["adaptation"], "samples": 0},
        **changes,
    }


_FINISHED: list[Path] = []


def finished_run(factory: pytest.TempPathFactory) -> Path:
    """A run that also evaluated its unseen tasks itself; one per process, not to be changed."""
    if not _FINISHED:
        folder = factory.mktemp("zeroshot")
        root = write_prompted(folder / "tasks")
        routes = ["auto", "nearest", "average"]
        experiment.run(folder / "run", run_values(root, zeroshot={"routes": routes}), resume=False)
        _FINISHED.append(folder / "run")
    return _FINISHED[0]
