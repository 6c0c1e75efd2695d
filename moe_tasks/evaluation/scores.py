"""Rows of ``scores.csv``: one score of one system on one task, sample and split.

Imports neither torch nor datasets: ``analysis`` reads run folders with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from moe_tasks.errors import UserError

KNOWN_SYSTEMS = ("direct", "multitask", "moe")


@dataclass(frozen=True)
class Score:
    """One row; ``score`` is None where there is none, ``sample`` empty where there are none."""

    system: str
    task: str
    category: str
    sample: str
    split: str
    metric: str
    score: float | None


COLUMNS = tuple(field.name for field in fields(Score))


def as_scores(rows: Iterable[Any]) -> list[Score]:
    """Rows given as ``Score``, as mappings (``csv.DictReader``, pandas records) or as objects
    with the same attributes.

    Empty, NaN and infinite scores become None.

    Raises:
        UserError: a column is missing, a score is no number, or a row appears twice.
    """
    scores = [row if isinstance(row, Score) else _as_score(row) for row in rows]
    seen: set[tuple[str, ...]] = set()
    for s in scores:
        key = (s.system, s.task, s.sample, s.split)
        if key in seen:
            raise UserError(
                f"two scores for system {s.system!r}, task {s.task!r}, sample {s.sample!r}, "
                f"split {s.split!r}; a task has one metric, so one of them is wrong"
            )
        seen.add(key)
    return scores


def task_means(scores: Iterable[Score], split: str = "test") -> dict[str, dict[str, float]]:
    """System -> task -> mean over the samples that have a score; tasks without any are absent."""
    found: dict[str, dict[str, list[float]]] = {}
    for s in scores:
        if s.split == split:
            by_task = found.setdefault(s.system, {})
            if s.score is not None:
                by_task.setdefault(s.task, []).append(s.score)
    return {
        system: {task: sum(values) / len(values) for task, values in by_task.items()}
        for system, by_task in found.items()
    }


def ordered_systems(scores: Iterable[Score]) -> list[str]:
    """Systems: the three compared first, then the rest as they first appear."""
    seen = list(dict.fromkeys(s.system for s in scores))
    return [s for s in KNOWN_SYSTEMS if s in seen] + [s for s in seen if s not in KNOWN_SYSTEMS]


def categories_of(scores: Iterable[Score]) -> dict[str, str]:
    """Task -> category, tasks as they first appear."""
    categories: dict[str, str] = {}
    for s in scores:
        categories.setdefault(s.task, s.category)
    return categories


def _as_score(row: Any) -> Score:
    values = {}
    for column in COLUMNS:
        missing = column not in row if isinstance(row, Mapping) else not hasattr(row, column)
        if missing:
            raise UserError(f"a score row has no {column!r}; columns: {', '.join(COLUMNS)}")
        value = row[column] if isinstance(row, Mapping) else getattr(row, column)
        values[column] = value if column == "score" else _text(value)
    values["score"] = _number(values["score"], values["system"], values["task"])
    return Score(**values)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def _number(value: Any, system: str, task: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"score {value!r} of system {system!r} on task {task!r} is no number"
        ) from None
    return number if math.isfinite(number) else None
