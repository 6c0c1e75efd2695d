"""How routes move during training: the route table at every evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moe_tasks.model import TaskMoE
from moe_tasks.tasks.base import Task
from moe_tasks.training.callbacks import Callback, Start

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("task", pa.string()),
        ("category", pa.string()),
        ("subcategory", pa.string()),
        ("stack", pa.string()),
        ("layer", pa.int64()),
        ("expert", pa.int64()),
        ("weight", pa.float32()),
    ]
)


class RouteSnapshots(Callback):
    """Writes the routes of the training tasks as a Parquet table, one snapshot per evaluation.

    Args:
        path: the file; a continued training drops later snapshots from it.
        tasks: by name.
    """

    def __init__(self, path: Path, tasks: Mapping[str, Task]) -> None:
        self.path, self.tasks = path, tasks
        self.table = SCHEMA.empty_table()

    def on_start(self, start: Start) -> None:
        self.model: Any = start.model
        if start.logged_step > 0 and self.path.exists():
            table = pq.read_table(self.path, schema=SCHEMA)
            self.table = table.filter(pc.less_equal(table["step"], start.logged_step))  # type: ignore[attr-defined]
        else:
            self._add(0)

    def on_evaluate(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step)

    def _add(self, step: int) -> None:
        if not isinstance(self.model, TaskMoE):
            return
        was_training = self.model.training
        rows = route_rows(self.model.eval(), self.tasks, step)
        self.model.train(was_training)
        self.table = pa.concat_tables([self.table, pa.Table.from_pylist(list(rows), SCHEMA)])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".tmp-{self.path.name}-{os.getpid()}")
        pq.write_table(self.table, aside)
        os.replace(aside, self.path)


def route_rows(model: TaskMoE, tasks: Mapping[str, Task], step: int) -> Iterable[dict[str, Any]]:
    """One row per task, layer and expert."""
    for name, route in zip(model.task_names, model.routes().tolist(), strict=True):
        task = tasks[name]
        for layer_name, weights in zip(model.layer_names, route, strict=True):
            stack, layer = layer_name.split(".")
            for expert, weight in enumerate(weights):
                yield {
                    "step": step,
                    "task": name,
                    "category": task.category,
                    "subcategory": task.subcategory,
                    "stack": stack,
                    "layer": int(layer),
                    "expert": expert,
                    "weight": weight,
                }
