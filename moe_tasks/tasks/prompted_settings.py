"""What a prompted task is besides its rows: entries of ``tasks.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_tasks.config import from_mapping
from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import names
from moe_tasks.tasks.base import Split, Task
from moe_tasks.tasks.raw_rows import HubRows
from moe_tasks.tasks.templates import Template
from moe_tasks.tasks.yaml_files import read_yaml


@dataclass(frozen=True)
class TaskSettings:
    """One entry of ``tasks.yaml``; paths are relative to the folder.

    Attributes:
        role: ``train``, ``dev`` or ``test`` *task*.
        category, subcategory, metric: see ``Task``; the metric is the templates' own when None,
            else ACC with answer options and EM without.
        instruction: one sentence that describes the task.
        templates: their file, if not ``<task>/templates.yaml``; or the templates themselves, which
            that file replaces.
        train, dev, test: files of rows, if not ``<task>/<split>.<ext>``.
        hub: a data set of the hub, where there are no files.
    """

    role: Split = "train"
    category: str = "uncategorised"
    subcategory: str = ""
    metric: str | None = None
    instruction: str = ""
    templates: str | dict[str, Any] | None = None
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    hub: HubRows | None = None
    features: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric not in names("metric"):
            known = nearest(self.metric, names("metric"))
            raise ValueError(f"unknown metric {self.metric!r}; {known}")


def read_settings(path: Path) -> dict[str, TaskSettings]:
    """Task name -> its entry in a YAML file.

    Raises:
        UserError: not such a file; names task and key.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected task names, each with keys and values")
    try:
        return {
            str(task): from_mapping(TaskSettings, values or {}, str(task))
            for task, values in content.items()
        }
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def task_facts(name: str, templates: Sequence[Template], settings: TaskSettings) -> Task:
    """What the templates and settings say about a task; ``UserError`` for an unknown metric."""
    has_options = any(template.answer_choices for template in templates)
    own = next((template.metric for template in templates if template.metric), None)
    if own is not None and own not in names("metric"):
        raise UserError(f"task {name!r}: unknown metric {own!r}; {nearest(own, names('metric'))}")
    return Task(
        name,
        settings.metric or own or ("ACC" if has_options else "EM"),
        settings.category,
        settings.subcategory,
        settings.instruction,
        {"classification": has_options, **settings.features},
    )
