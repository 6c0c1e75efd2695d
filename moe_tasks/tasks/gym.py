"""``tasks=gym``: the layout of CrossFit's few-shot gym (Ye et al., EMNLP 2021).

``<task>/<task>_<k>_<sample>_{train,dev,test}.tsv`` with ``input<TAB>output[<TAB>output...]`` a
line, ``tasks.json`` (metric, category, labels ... of each task), ``ontology.json`` (category ->
subcategory -> tasks; optional) and ``splits/<split>.json`` (role -> tasks).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import names, register
from moe_tasks.tasks.base import SPLITS, Example, Split, Task, TaskCollection
from moe_tasks.tasks.cache import content_hash, reading
from moe_tasks.tasks.gym_splits import OnMissing, read_roles
from moe_tasks.tasks.reading import (
    GYM_SAMPLES,
    BadRows,
    ReaderConfig,
    Row,
    cached_rows,
    choose,
    existing_folder,
    is_storable,
    keep_fitting,
    make_example,
    read_json,
    text_lines,
)

_OWN_KEYS = ("metric", "category", "subcategory", "instruction", "labels")
_TASKS_JSON = (
    'expected {"<task>": {"metric": "ACC", "category": "...", "subcategory": "...", '
    '"labels": ["...", ...] for a classification task}, ...}'
)

Files = dict[tuple[str, str, Split], Path]


@register("tasks", "gym")
@dataclass
class GymTasks(ReaderConfig):
    """Tasks in the gym's layout.

    Attributes:
        path: the folder.
        split: name of ``splits/<split>.json`` in it, a path that ends in ``.json``, or one of
            CrossFit's partitions (``moe_tasks.tasks.partitions``) if the folder has no such file.
        samples: which few-shot samples; all that are there when None.
        tasks: which of the split's tasks; all when None.
        missing: ``error``, or ``skip`` tasks of the split that have no folder.
    """

    path: str
    split: str = "random"
    samples: list[str] | None = None
    tasks: list[str] | None = None
    missing: OnMissing = "error"

    def __post_init__(self) -> None:
        super().__post_init__()

    def build(self) -> TaskCollection:
        """Read, or find in the cache, all rows of the chosen tasks and samples.

        Raises:
            UserError: something is missing or malformed; names file and line, or key.
        """
        root = existing_folder(self.path)
        roles, remarks = read_roles(root, self.split, self.tasks, self.missing)
        tasks, labels = _read_tasks(root, sorted(itertools.chain(*roles.values())))
        files, samples = _find_files(root, list(tasks), self.samples)
        bad = self.bad_rows()
        key = {
            "path": str(root),
            "content": content_hash(files.values(), root),
            "files": [[*identity, path.name] for identity, path in files.items()],
            "tasks": {name: [task.metric, labels[name]] for name, task in tasks.items()},
            "bad_rows": [bad.policy, bad.max_share],
        }
        rows, skipped = cached_rows(
            self.cache_dir, key, lambda: _rows(files, tasks, labels, bad), lambda: bad.skipped
        )
        return TaskCollection(tasks, roles, samples, rows, [*remarks, *skipped])


def _rows(
    files: Files, tasks: Mapping[str, Task], labels: Mapping[str, list[str]], bad: BadRows
) -> Iterator[Row]:
    for name, own_files in itertools.groupby(files.items(), key=lambda item: item[0][0]):
        num_rows = 0
        for (_, sample, split), path in own_files:
            examples = _examples(path, labels[name], bad)
            examples = keep_fitting(tasks[name].metric, path, examples, bad)
            num_rows += len(examples)
            for _, example in examples:
                yield name, sample, split, example
        bad.finish(name, num_rows)


def _examples(path: Path, labels: Sequence[str], bad: BadRows) -> list[tuple[int, Example]]:
    examples = []
    for number, line in text_lines(path, bad):
        text, *outputs = line.split("\t")
        try:
            if not outputs:
                raise ValueError("1 column; expected input<TAB>output[<TAB>output...]")
            examples.append((number, make_example(text, outputs, labels)))
        except ValueError as error:
            bad.reject(path, number, str(error))
    return examples


def _read_tasks(root: Path, chosen: list[str]) -> tuple[dict[str, Task], dict[str, list[str]]]:
    path = root / "tasks.json"
    if not path.is_file():
        raise UserError(f"no file {path}: it says how each task is scored; {_TASKS_JSON}")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: {_TASKS_JSON}")
    categories = _read_ontology(root / "ontology.json")
    tasks, labels = {}, {}
    for name in chosen:
        if name not in content:
            raise UserError(f"{path}: no entry for task {name!r}; {nearest(name, content)}")
        where = f"{path}: task {name!r}"
        tasks[name] = _task(name, content[name], categories.get(name), where)
        labels[name] = _labels(content[name].get("labels"), where)
    return tasks, labels


def _task(name: str, entry: Any, category: tuple[str, str] | None, where: str) -> Task:
    if not isinstance(entry, dict) or "metric" not in entry:
        hint = nearest("metric", entry) if isinstance(entry, dict) else _TASKS_JSON
        raise UserError(f"{where} has no 'metric'; {hint}")
    for key in ("metric", "category", "subcategory", "instruction"):
        if not _is_texts([entry.get(key, "")]):
            raise UserError(f"{where}: {key!r} is {entry[key]!r}; expected text")
    if entry["metric"] not in names("metric"):
        known = nearest(entry["metric"], names("metric"))
        raise UserError(f"{where}: unknown metric {entry['metric']!r}; {known}")
    own = (entry.get("category", ""), entry.get("subcategory", ""))
    if category and own[0] and own[0] != category[0]:
        raise UserError(f"{where} is in category {own[0]!r}, by ontology.json in {category[0]!r}")
    category = (own[0], own[1]) if own[0] else category or ("uncategorised", "")
    features = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
    return Task(name, entry["metric"], *category, entry.get("instruction", ""), features)


def _labels(labels: Any, where: str) -> list[str]:
    if labels is None:
        return []
    if not _is_texts(labels) or not 2 <= len({x.strip() for x in labels} - {""}) == len(labels):
        raise UserError(f"{where}: 'labels' is {labels!r}; expected two or more different texts")
    return [label.strip() for label in labels]


def _read_ontology(path: Path) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        return {}
    found: dict[str, tuple[str, str]] = {}
    content = read_json(path)
    try:
        for category, subcategories in content.items():
            for subcategory, members in subcategories.items():
                found.update((task, (category, subcategory)) for task in members)
    except (AttributeError, TypeError):
        raise UserError(f"{path}: expected {{category: {{subcategory: [tasks]}}}}") from None
    return found


def _find_files(
    root: Path, tasks: Sequence[str], wanted: list[str] | None
) -> tuple[Files, list[str]]:
    """Files of the chosen samples, ordered by task, sample, split; the samples in order."""
    found: Files = {}
    for task in tasks:
        if not (root / task).is_dir():
            folders = [p.name for p in root.iterdir() if p.is_dir()]
            raise UserError(f"no folder {root / task}; {nearest(task, folders)}")
        _scan(root / task, task, found)
    present = {sample for _, sample, _ in found}
    order = [s for s in GYM_SAMPLES if s in present] + sorted(present.difference(GYM_SAMPLES))
    samples = choose("sample", wanted, order)
    files: Files = {}
    for task, sample, split in itertools.product(tasks, samples, SPLITS):
        if (task, sample, split) not in found:
            raise UserError(f"{root / task}: no file {task}_<k>_{sample}_{split}.tsv")
        files[task, sample, split] = found[task, sample, split]
    return files, samples


def _scan(folder: Path, task: str, found: Files) -> None:
    pattern = re.compile(re.escape(task) + r"_\d+_([^_\s]+)_(train|dev|test)\.tsv")
    with reading(folder):
        paths = sorted(folder.glob("*.tsv"))
    for path in paths:
        match = pattern.fullmatch(path.name)
        if match is None:
            raise UserError(f"{path}: expected a name like {task}_16_100_train.tsv")
        key = (task, match[1], cast(Split, match[2]))
        if key in found:
            raise UserError(f"{path}: the same sample and split as {found[key].name}")
        found[key] = path


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) and is_storable(x) for x in value)
