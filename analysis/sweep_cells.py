"""Reading the cells of a zero-shot evaluation from their files alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError, nearest

RESULT, ERROR = "result.json", "error.json"
_KEYS = ("run", "seed", "system", "task", "template", "route", "category", "metric", "scores")


@dataclass(frozen=True)
class SweepCell:
    """One system on one task in one wording.

    Attributes:
        run: the run's folder and seed: sweeps number their runs alike.
        label: system, with the source of its route and its selection where it has them.
        scores: ``sum`` and ``mean`` of ranked options, or ``generated``.
        is_cut: whether inputs or options were longer than the model is given.
        chance, majority: what a random and a constant answer score; None where there is none.
    """

    run: str
    label: str
    task: str
    template: str
    category: str
    metric: str
    scores: dict[str, float]
    rows: int
    is_cut: bool
    chance: float | None
    majority: float | None
    path: Path

    def score(self, how: str) -> float:
        """By ``how`` options were ranked; of open tasks the only score."""
        return self.scores[how] if how in self.scores else self.scores["generated"]


@dataclass(frozen=True)
class Sweep:
    """Attributes:
    cells: the newest of each run, label, task and template.
    failed: (cell, reason) of those that ended with an error, and notes on what was left out.
    """

    cells: list[SweepCell]
    failed: list[tuple[str, str]]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @property
    def runs(self) -> list[str]:
        return sorted({cell.run for cell in self.cells})


def read_sweep(folders: Sequence[Path]) -> Sweep:
    """All cells at or below ``folders``.

    Raises:
        UserError: a folder is missing or has no cell, or no cell can be used.
    """
    files: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise UserError(f"no folder {folder}; {nearest(folder.name, beside)}")
        found = [p for name in (RESULT, ERROR) for p in folder.rglob(name)]
        if not found:
            raise UserError(f"no cells below {folder} (a cell's folder holds {RESULT})")
        files.update(dict.fromkeys(sorted(found)))
    failed: list[tuple[str, str]] = []
    cells: dict[tuple[str, ...], SweepCell] = {}
    for path in files:
        cell = _read(path, failed)
        if cell is not None:
            _keep_newest(cells, cell, failed)
    if not cells:
        reasons = "; ".join(f"{cell}: {reason}" for cell, reason in failed[:3])
        raise UserError(f"none of {len(files)} cells can be used: {reasons}")
    return Sweep(_ordered(cells.values()), sorted(failed))


def _ordered(cells: Iterable[SweepCell]) -> list[SweepCell]:
    """Dense systems first, then by name."""
    return sorted(cells, key=lambda c: ("(" in c.label, c.label, c.category, c.task, c.template))


def _keep_newest(
    cells: dict[tuple[str, ...], SweepCell], cell: SweepCell, failed: list[tuple[str, str]]
) -> None:
    key = (cell.run, cell.label, cell.task, cell.template)
    other = cells.get(key)
    if other is not None:
        old, cell = sorted((other, cell), key=lambda c: c.path.stat().st_mtime)
        if old.scores != cell.scores:  # route=auto and what it comes to give the same cell twice
            reason = f"left out: {cell.path.parent} is the same and newer"
            failed.append((str(old.path.parent), reason))
    cells[key] = cell


def _read(path: Path, failed: list[tuple[str, str]]) -> SweepCell | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if path.name == ERROR:
            failed.append((_named(facts), str(facts["error"])))
            return None
        absent = [key for key in _KEYS if key not in facts]
        if absent:
            raise ValueError(f"it lacks {', '.join(absent)}")
        return SweepCell(
            run=f"{facts['run']}, seed {int(facts['seed'])}",
            label=_label(facts),
            task=str(facts["task"]),
            template=str(facts["template"]),
            category=str(facts["category"]),
            metric=str(facts["metric"]),
            scores={str(how): float(value) for how, value in facts["scores"].items()},
            rows=int(facts.get("rows", 0)),
            is_cut=any(facts.get("cut", {}).values()),
            chance=_number(facts.get("chance")),
            majority=_number(facts.get("majority")),
            path=path,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        failed.append((str(path), f"not readable: {' '.join(str(error).split())}"))
        return None


def _label(facts: dict[str, Any]) -> str:
    source = facts.get("source", facts["route"])
    parts = [] if source in ("none", "") else [str(source)]
    selection = facts.get("selection")
    if selection:
        parts.append(str(selection.get("name", "selection")))
    return f"{facts['system']} ({', '.join(parts)})" if parts else str(facts["system"])


def _named(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {facts[key]}" for key in ("system", "route", "task", "template"))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
