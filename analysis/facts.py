"""What is known about tasks besides their categories: ``tasks.json`` as features.

``tasks.json`` maps a task's name to facts (the gym's layout): booleans, numbers, short texts and
lists. Any key may be added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from moe_tasks.errors import UserError

TASKS_FILE = "tasks.json"
NO_FEATURES = ("metric", "category", "subcategory", "instruction")
_MOST_VALUES, _FEWEST_TASKS = 12, 4


@dataclass(frozen=True)
class Feature:
    """Attributes:
    name: key of ``tasks.json``, or ``key=value`` for texts, ``num_key`` for lists.
    kind: ``binary`` (0 and 1) or ``number``.
    values: ``[tasks]``; NaN where a task lacks it.
    """

    name: str
    kind: str
    values: np.ndarray


class _Task(Protocol):
    @property
    def metric(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def subcategory(self) -> str: ...
    @property
    def instruction(self) -> str: ...
    @property
    def features(self) -> Mapping[str, Any]: ...


class _Example(Protocol):
    @property
    def input(self) -> str: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def options(self) -> tuple[str, ...]: ...


def task_facts(task: _Task, examples: Iterable[_Example]) -> dict[str, Any]:
    """A task's entry in ``tasks.json``: its own features, and those measured on ``examples``.

    Measured are mean words of input and output, mean number of options and the share of
    examples whose output stands in the input.
    """
    rows = list(examples)
    own = {key: getattr(task, key) for key in NO_FEATURES}
    measured: dict[str, Any] = {}
    if rows:
        measured = {
            "input_words": float(np.mean([len(row.input.split()) for row in rows])),
            "output_words": float(np.mean([len(row.outputs[0].split()) for row in rows])),
            "num_options": float(np.mean([len(row.options) for row in rows])),
            "output_in_input": float(np.mean([row.outputs[0] in row.input for row in rows])),
        }
    return {**measured, **task.features, **own}


def read_facts(path: Path) -> pd.DataFrame:
    """``tasks.json`` as a frame: a row per task (index), a column per key.

    Raises:
        ValueError: not a mapping of task names to mappings.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("expected task names, each with its facts in {}")
    columns = list(dict.fromkeys(key for entry in content.values() for key in entry))
    index = pd.Index(list(content), name="task")
    found = {key: [entry.get(key) for entry in content.values()] for key in columns}
    return pd.DataFrame({k: pd.Series(v, index, dtype=object) for k, v in found.items()}, index)


def read_ontology(path: Path) -> dict[str, tuple[str, str]]:
    """``{category: {subcategory: [tasks]}}`` (the gym's ``ontology.json``) by task.

    Raises:
        UserError: no such file, or another layout.
    """
    layout = "expected {category: {subcategory: [tasks]}}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {layout}: {error}") from error
    found: dict[str, tuple[str, str]] = {}
    for category, below in content.items() if isinstance(content, dict) else [("", None)]:
        for subcategory, tasks in below.items() if isinstance(below, dict) else [("", None)]:
            if not isinstance(tasks, list):
                where = " / ".join(filter(None, (category, subcategory)))
                raise UserError(f"{path}: {layout}{where and f', not so at {where!r}'}")
            found |= {str(task): (category, subcategory) for task in tasks}
    return found


def features(facts: pd.DataFrame, tasks: Iterable[str]) -> tuple[list[Feature], dict[str, str]]:
    """Features of ``tasks`` that an association can be asked of; and why others are left out."""
    names = list(tasks)
    known = facts.reindex(names)
    used: list[Feature] = []
    left_out: dict[str, str] = {}
    for key in facts.columns:
        if key in NO_FEATURES:
            continue
        for feature in _of_column(str(key), known[key].tolist()):
            reason = feature if isinstance(feature, str) else _why_not(feature)
            if reason or isinstance(feature, str):
                left_out[str(key) if isinstance(feature, str) else feature.name] = reason
            else:
                used.append(feature)
    return used, left_out


def _of_column(key: str, cells: list[Any]) -> list[Feature | str]:
    lists = any(isinstance(cell, list) for cell in cells)
    if lists:
        cells = [len(cell) if isinstance(cell, list) else None for cell in cells]
        key = f"num_{key}"
    present = [cell for cell in cells if not _absent(cell)]
    if all(isinstance(cell, bool | int | float) for cell in present):
        values = np.array([math.nan if _absent(cell) else float(cell) for cell in cells])
        binary = all(isinstance(cell, bool) for cell in present)
        return [Feature(key, "binary" if binary else "number", values)]
    if not all(isinstance(cell, str) for cell in present):
        return ["neither numbers nor texts"]
    kinds = sorted(set(present))
    if len(kinds) > _MOST_VALUES:
        return [f"{len(kinds)} different texts"]
    return [
        Feature(
            f"{key}={kind}",
            "binary",
            np.array([math.nan if _absent(cell) else float(cell == kind) for cell in cells]),
        )
        for kind in kinds
    ]


def _absent(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and not math.isfinite(cell))


def _why_not(feature: Feature) -> str:
    present = feature.values[np.isfinite(feature.values)]
    if len(present) < _FEWEST_TASKS:
        return f"known for {len(present)} tasks"
    if len(set(present.tolist())) == 1:
        return "the same for all tasks"
    if feature.kind == "binary" and min(present.sum(), (1 - present).sum()) < 2:
        return "differs in one task only"
    return ""
