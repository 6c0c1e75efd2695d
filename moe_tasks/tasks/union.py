"""``tasks=union``: several collections as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.tasks.base import SPLITS, Split, TaskCollection
from moe_tasks.tasks.detailed import DetailedCollection


@register("tasks", "union")
@dataclass
class UnionTasks:
    """Attributes:
    parts: collections, each with its ``name`` and own keys, by any names.
    path: folder in which the parts' own relative paths lie.
    cache_dir: of parts that give none.

    Raises ``UserError`` where two parts have a task of the same name, or other samples.
    """

    parts: dict[str, dict[str, Any]]
    path: str = "."
    cache_dir: str = ".cache/moe_tasks"
    made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("'parts' is empty: name at least one collection")
        for part, values in self.parts.items():
            own = {"cache_dir": self.cache_dir, **values}
            if own.get("path") is not None:
                own["path"] = str(Path(self.path) / own["path"])
            try:
                self.made[part] = config.part("tasks", own)
            except UserError as error:
                raise UserError(f"'tasks.parts.{part}': {error}") from error

    def build(self) -> TaskCollection:
        """Read all parts; ``UserError`` as theirs."""
        found: dict[str, TaskCollection] = {name: p.build() for name, p in self.made.items()}
        first = next(iter(found.values()))
        owner: dict[str, str] = {}
        for part, collection in found.items():
            if collection.samples != first.samples:
                raise UserError(f"'tasks.parts.{part}' has other samples than the parts before it")
            for task in collection.tasks:
                if owner.setdefault(task, part) != part:
                    raise UserError(
                        f"task {task!r} is in 'tasks.parts' {owner[task]!r} and {part!r}; choose "
                        "with the parts' own key 'tasks'"
                    )
        return _joined(found, first.samples)


def _joined(found: Mapping[str, TaskCollection], samples: tuple[str, ...]) -> TaskCollection:
    parts = list(found.values())
    tasks = {name: task for part in parts for name, task in part.tasks.items()}
    roles: dict[Split, list[str]] = {
        split: [task for part in parts for task in part.roles[split]] for split in SPLITS
    }
    rows = datasets.concatenate_datasets([part.rows for part in parts])
    skipped = [line for part in parts for line in part.skipped]
    own = [part.details if isinstance(part, DetailedCollection) else {} for part in parts]
    names = dict.fromkeys(name for details in own for name in details)
    details = {
        name: [
            value
            for part, has in zip(parts, own, strict=True)
            for value in has.get(name, [None] * len(part.rows))
        ]
        for name in names
    }
    joined = DetailedCollection(tasks, roles, rows, skipped, details)
    joined.samples = samples
    return joined
