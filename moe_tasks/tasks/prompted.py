"""``tasks=prompted``: tasks in several wordings, for zero-shot training and evaluation.

A task is a data set; its templates word each row (Sanh et al., arXiv 2110.08207). See
``prompted_folder`` for what a folder holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import register
from moe_tasks.tasks.prompted_folder import read_folder
from moe_tasks.tasks.prompted_task import DRAWN, PromptedCollection, PromptedTask, worded_rows
from moe_tasks.tasks.reading import (
    BadRows,
    ReaderConfig,
    cached_rows,
    choose,
    existing_folder,
)


@register("tasks", "prompted")
@dataclass
class PromptedTasks(ReaderConfig):
    """Prompted tasks of a folder.

    Attributes:
        path: the folder.
        template: wording of the rows that are trained on: ``random`` draws one per row, ``all``
            takes every one, a name takes that one.
        seed: of the draw.
        tasks: which of the tasks; all when None.
        held_out: tasks and categories that are not trained on but evaluated; what the folder says
            when None.
        max_rows: at most so many rows of a file, drawn from everywhere in it.
        max_options: relations of ``templates.json`` with at most so many different answers have
            them as answer options; the others are open.
    """

    path: str
    template: str = DRAWN
    seed: int = 0
    tasks: list[str] | None = None
    held_out: list[str] | None = None
    max_rows: int | None = None
    max_options: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"'max_rows' is {self.max_rows}; expected 1 or more")

    def build(self) -> PromptedCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: something is missing or malformed; names file, key, or task, template, row.
        """
        tasks = read_folder(existing_folder(self.path), self.max_options, self.max_rows)
        chosen = choose("task", self.tasks, [task.name for task in tasks])
        return self._collect([task for task in tasks if task.name in chosen])

    def _collect(self, tasks: Sequence[PromptedTask]) -> PromptedCollection:
        if self.held_out is not None:
            tasks = hold_out_tasks(tasks, self.held_out)
        bad = self.bad_rows()
        return collect(tasks, self.template, self.seed, self.cache_dir, bad)


def collect(
    tasks: Sequence[PromptedTask], template: str, seed: int, cache_dir: str, bad: BadRows
) -> PromptedCollection:
    """The collection of ``tasks``, its table from the cache where it was made before."""
    key = {
        "prompted": [[task.name, task.role, task.origin] for task in tasks],
        "template": [template, seed],
        "bad_rows": [bad.policy, bad.max_share],
    }
    rows, skipped = cached_rows(
        cache_dir, key, lambda: worded_rows(tasks, template, seed, bad), lambda: bad.skipped
    )
    return PromptedCollection(tasks, rows, skipped)


def hold_out_tasks(tasks: Sequence[PromptedTask], held_out: Sequence[str]) -> list[PromptedTask]:
    """The tasks with their roles decided by ``held_out``, names of tasks and categories.

    Raises:
        UserError: an unknown name, or nothing is left to train on.
    """
    known = {task.name for task in tasks} | {task.task.category for task in tasks}
    for name in held_out:
        if name not in known:
            raise UserError(f"'held_out': no task or category {name!r}; {nearest(name, known)}")
    out = set(held_out)
    parted = [
        replace(task, role="test" if {task.name, task.task.category} & out else "train")
        for task in tasks
    ]
    if all(task.role == "test" for task in parted):
        raise UserError("'held_out' leaves no task to train on")
    return parted
