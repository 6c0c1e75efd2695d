"""What lies in the folder of ``tasks=folder``: the files of each task, and ``tasks.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_tasks.config import from_mapping
from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import names
from moe_tasks.tasks.base import SPLITS, Split
from moe_tasks.tasks.cache import reading
from moe_tasks.tasks.reading import check_task_name, is_storable
from moe_tasks.tasks.table_files import READERS
from moe_tasks.tasks.yaml_files import read_yaml

TaskFiles = dict[Split, Path]

_SETTINGS = "tasks.yaml"


@dataclass(frozen=True)
class TaskSettings:
    """One entry of ``tasks.yaml``.

    Attributes:
        metric: name of a metric; ACC when None and the rows have options, else EM.
        category, subcategory, instruction: see ``Task``.
        features: further facts; ``classification: true`` draws few-shot examples per class.
        options: answer options of all rows that have none of their own.
        role: ``train``, ``dev`` or ``test`` *task*.
    """

    metric: str | None = None
    category: str = "uncategorised"
    subcategory: str = ""
    instruction: str = ""
    features: dict[str, Any] = field(default_factory=dict)
    options: list[str] | None = None
    role: Split = "train"

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric not in names("metric"):
            known = nearest(self.metric, names("metric"))
            raise ValueError(f"unknown metric {self.metric!r}; {known}")
        for text in (self.category, self.subcategory, self.instruction, *(self.options or ())):
            if not is_storable(text):
                raise ValueError(f"{text!r} holds a NUL or half a character")
        options = self.options
        distinct = {option.strip() for option in options or ()} - {""}
        if options is not None and not 2 <= len(distinct) == len(options):
            raise ValueError(f"'options' is {options!r}; expected two or more different texts")
        try:
            json.dumps(self.features, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"'features' holds what JSON cannot: {error}") from error
        if not isinstance(self.features.get("classification", False), bool):
            raise ValueError("'features.classification' is neither true nor false")


def find_files(root: Path) -> dict[str, TaskFiles]:
    """Task -> split -> file, tasks sorted.

    Raises:
        UserError: no task, a task without train file, a file of another type or with another
            split, or two files for one split.
    """
    found: dict[str, TaskFiles] = {}
    with reading(root):
        paths = sorted(p for p in root.iterdir() if not p.name.startswith("."))
        inner = {p: sorted(p.iterdir()) for p in paths if p.is_dir()}
    for path in paths:
        task, dot, split = path.stem.rpartition(".")
        if path not in inner and (dot or path.suffix.lower() in READERS):
            _add(found, path, task, split)
    for folder, files in inner.items():
        for path in files:
            if path.stem in SPLITS or path.suffix.lower() in READERS:
                _add(found, path, folder.name, path.stem)
    if not found:
        layouts = f"<task>.train.<ext> or <task>/train.<ext>, ext {', '.join(READERS)}"
        raise UserError(f"{root}: no task files; expected {layouts}")
    for task, files in found.items():
        if "train" not in files:
            raise UserError(f"{root}: task {task!r} has {', '.join(files)} but no train file")
    return {task: {s: own[s] for s in SPLITS if s in own} for task, own in sorted(found.items())}


def _add(found: dict[str, TaskFiles], path: Path, task: str, split: str) -> None:
    readable = path.suffix.lower() in READERS
    if split not in SPLITS:
        if not readable:  # some other file with a dot in its name
            return
        raise UserError(f"{path}: expected <task>.<split>.<ext>; split {nearest(split, SPLITS)}")
    if not readable:
        raise UserError(f"{path}: files of this type are not read; {nearest('', READERS)}")
    check_task_name(task, path)
    if split in found.setdefault(task, {}):
        raise UserError(f"{path}: {found[task][split]} is the {split} file of {task!r} already")
    found[task][split] = path


def read_settings(root: Path, tasks: Sequence[str]) -> dict[str, TaskSettings]:
    """The entries of ``tasks.yaml``, if there is one.

    Raises:
        UserError: not YAML, an unknown task or key, or a value that does not fit its key.
    """
    path = root / _SETTINGS
    if (root / "tasks.yml").exists():
        raise UserError(f"{root / 'tasks.yml'}: is not read; call it {_SETTINGS}")
    if not path.exists():
        return {}
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected task names, each with keys and values")
    settings = {}
    for task, values in content.items():
        if task not in tasks:
            raise UserError(f"{path}: no files for task {task!r}; {nearest(str(task), tasks)}")
        try:
            settings[task] = from_mapping(TaskSettings, {} if values is None else values, task)
        except UserError as error:
            is_bool = re.search(r"is (True|False)\b", str(error))
            hint = " (put words like yes and no in quotes)" if is_bool else ""
            raise UserError(f"{path}: {error}{hint}") from error
    return settings
