"""What a report is about: route tables with all that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.checkpoints import Checkpoint, read_checkpoint
from analysis.routes import Snapshot, snapshot
from analysis.runs import Run
from moe_tasks.errors import UserError

UNKNOWN = ("", "uncategorised")
NO_CATEGORY = "(no category)"


@dataclass(frozen=True)
class Subject:
    """The routes of one system of one run.

    Attributes:
        name: run, and system where it is not ``moe``.
        shots: by step; never empty.
        facts: index task, a column per key of ``tasks.json``.
        notes: what is missing.
    """

    name: str
    run: Run
    system: str
    shots: tuple[Snapshot, ...]
    facts: pd.DataFrame
    checkpoint: Checkpoint
    notes: tuple[str, ...] = field(default=())

    @property
    def last(self) -> Snapshot:
        return self.shots[-1]

    def vectors(self) -> np.ndarray | None:
        """``[tasks, dim]`` in the order of ``last.tasks``; None if a task has none."""
        found = [self.checkpoint.vectors.get(task) for task in self.last.tasks["task"]]
        vectors = [vector for vector in found if vector is not None]
        return np.stack(vectors) if found and len(vectors) == len(found) else None


def run_names(paths: Sequence[Path]) -> list[str]:
    """A short name for each folder, with as many parents as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]


def subjects_of(
    run: Run, name: str, ontology: Mapping[str, tuple[str, str]] | None = None
) -> tuple[list[Subject], list[str]]:
    """The subjects of a run, and notes on what it lacks."""
    notes = [f"{file} is missing" for file in run.missing]
    found = []
    if not run.routes:
        notes.append("no routes: there is nothing to say about experts")
    if run.routes and run.facts.empty:
        notes.append("no tasks.json: experts cannot be compared with features of tasks")
    for system, table in run.routes.items():
        try:
            found.append(_subject(run, name, system, table, ontology))
        except UserError as error:
            notes.append(f"routes of {system}: {error}")
    return found, notes


def _subject(
    run: Run,
    name: str,
    system: str,
    table: pd.DataFrame,
    ontology: Mapping[str, tuple[str, str]] | None,
) -> Subject:
    notes: list[str] = []
    steps = sorted(set(table["step"].tolist()))
    shots = tuple(_relabelled(snapshot(table, step), ontology) for step in steps)
    if not shots:
        raise UserError("the table is empty")
    tasks = shots[-1].tasks
    without = tasks["task"][tasks["category"] == NO_CATEGORY].tolist()
    if without:
        some = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        where = "the ontology" if ontology is not None else "the run"
        notes.append(
            f"{len(without)} of {len(tasks)} tasks have no category in {where} and are left out "
            f"where categories count: {some}"
        )
    try:
        checkpoint = read_checkpoint(run.path, system)
    except ValueError as error:
        checkpoint = Checkpoint({}, {})
        notes.append(f"{error}: no task vectors, no distances of experts")
    label = name if system == "moe" else f"{name}: {system}"
    return Subject(label, run, system, shots, run.facts, checkpoint, tuple(notes))


def _relabelled(shot: Snapshot, ontology: Mapping[str, tuple[str, str]] | None) -> Snapshot:
    tasks = shot.tasks.copy()
    if ontology is not None:
        labels = [ontology.get(task, ("", "")) for task in tasks["task"]]
        tasks["category"] = [category for category, _ in labels]
        tasks["subcategory"] = [subcategory for _, subcategory in labels]
    tasks["category"] = [NO_CATEGORY if c in UNKNOWN else c for c in tasks["category"]]
    return Snapshot(shot.step, tasks, shot.layers, shot.weights)
