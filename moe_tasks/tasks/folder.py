"""``tasks=folder``: bring your own tasks, one file per task and split.

``<task>.<split>.<ext>`` or ``<task>/<split>.<ext>`` with split ``train``, ``dev`` or ``test`` and
ext ``jsonl``, ``csv``, ``tsv`` or ``parquet`` (see ``table_files``). Only the train file is
needed. ``tasks.yaml`` says what the defaults get wrong, per task: see ``TaskSettings``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.tasks.base import SPLITS, Example, Split, Task, TaskCollection
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.folder_files import TaskSettings, find_files, read_settings
from moe_tasks.tasks.reading import (
    GYM_SAMPLES,
    BadRows,
    ReaderConfig,
    Row,
    cached_rows,
    choose,
    existing_folder,
    keep_fitting,
)
from moe_tasks.tasks.shots import Shots, few_shot, hold_out
from moe_tasks.tasks.table_files import read_examples

Numbered = list[tuple[int, Example]]


@register("tasks", "folder")
@dataclass
class FolderTasks(ReaderConfig):
    """Your own tasks.

    Attributes:
        path: the folder.
        num_samples: how many few-shot samples are drawn from a task's train file, each with its
            own train and dev examples.
        shots: examples of train, and as many of dev: per class where all rows of a task have the
            same options, else in all. ``gym`` is 16 per class, else 32; ``all`` takes every row.
        tasks: which of the tasks; all when None.

    Dev examples come from the dev file, or from the train file where there is none. Test examples
    are all of the test file; without one, a fifth of the train file (at most 200 rows) is held
    out, the same for all samples, and ``TaskCollection.skipped`` says so.
    """

    path: str
    num_samples: int = 5
    shots: Shots = "gym"
    tasks: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1:
            raise ValueError(f"'num_samples' is {self.num_samples}; expected 1 or more")
        if isinstance(self.shots, int) and self.shots < 1:
            raise ValueError(f"'shots' is {self.shots}; expected 1 or more, 'gym' or 'all'")

    def build(self) -> TaskCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: something is missing or malformed; names file and line, or key.
        """
        root = existing_folder(self.path)
        found = find_files(root)
        settings = read_settings(root, list(found))
        chosen = sorted(choose("task", self.tasks, list(found)))
        files = {task: found[task] for task in chosen}
        settings = {task: settings.get(task, TaskSettings()) for task in chosen}
        samples = sample_names(self.num_samples)
        bad = self.bad_rows()
        reader = _Reader(files, settings, samples, self.shots, bad)
        paths = [path for own in files.values() for path in own.values()]
        key = {
            "path": str(root),
            "content": content_hash(paths, root),
            "files": {task: [*own] for task, own in files.items()},
            "settings": {task: asdict(own) for task, own in settings.items()},
            "draw": [samples, self.shots],
            "bad_rows": [self.on_bad_row, self.max_bad_share],
        }
        rows, notes = cached_rows(self.cache_dir, key, reader.rows, reader.notes)
        tasks = {task: _task(task, settings[task], notes["found"][task]) for task in chosen}
        roles: dict[Split, list[str]] = {
            role: [task for task in chosen if settings[task].role == role] for role in SPLITS
        }
        return TaskCollection(tasks, roles, samples, rows, notes["skipped"])


def sample_names(count: int) -> list[str]:
    """The gym's sample names, then numbers."""
    return [*GYM_SAMPLES, *(str(number) for number in range(101, 96 + count))][:count]


def _task(name: str, settings: TaskSettings, found: Mapping[str, Any]) -> Task:
    features = {"classification": found["classification"], **settings.features}
    return Task(
        name,
        found["metric"],
        settings.category,
        settings.subcategory,
        settings.instruction,
        features,
    )


class _Reader:
    """Reads all tasks; what it finds out about a task goes into ``notes``."""

    def __init__(
        self,
        files: Mapping[str, Mapping[Split, Path]],
        settings: Mapping[str, TaskSettings],
        samples: Sequence[str],
        shots: Shots,
        bad: BadRows,
    ) -> None:
        self.bad = bad
        self._files, self._settings = files, settings
        self._samples = samples
        self._shots: Shots = shots
        self._found: dict[str, dict[str, Any]] = {}

    def notes(self) -> dict[str, Any]:
        return {"skipped": self.bad.skipped, "found": self._found}

    def rows(self) -> Iterator[Row]:
        for task in self._files:
            yield from self._task_rows(task)

    def _task_rows(self, task: str) -> Iterator[Row]:
        pools = self._pools(task)
        classes = self._found[task]["classification"]
        train, test = pools["train"], pools.get("test")
        if test is None:
            train, test = hold_out(train, f"{task}\0test")
            path = self._files[task]["train"]
            self.bad.note(f"{path}: no test file for {task!r}: {len(test)} rows held out as test")
        for sample in self._samples:
            drawn = few_shot(train, pools.get("dev"), f"{task}\0{sample}", self._shots, classes)
            for split, examples in zip(SPLITS, (*drawn, test), strict=True):
                if not examples:
                    path, rows = self._files[task]["train"], len(pools["train"])
                    raise UserError(f"{path}: {rows} rows are too few for train, dev and test")
                for example in examples:
                    yield task, sample, split, example

    def _pools(self, task: str) -> dict[Split, list[Example]]:
        """The different usable examples of each file of a task."""
        settings, files = self._settings[task], self._files[task]
        options = settings.options or ()
        read: dict[Split, Numbered] = {
            split: read_examples(path, options, self.bad) for split, path in files.items()
        }
        with_options = any(row.options for rows in read.values() for _, row in rows)
        metric = settings.metric or ("ACC" if with_options else "EM")
        for split, path in files.items():
            if with_options:
                read[split] = self._without_bare(path, read[split])
            read[split] = keep_fitting(metric, path, read[split], self.bad)
        lists = {tuple(sorted(row.options)) for rows in read.values() for _, row in rows}
        classes = settings.features.get("classification", with_options and len(lists) == 1)
        self._found[task] = {"metric": metric, "classification": bool(classes)}
        exclusive = with_options or bool(classes)
        num_good, num_bad = sum(map(len, read.values())), self.bad.count
        pools: dict[Split, list[Example]] = {
            split: self._merged(files[split], rows, exclusive) for split, rows in read.items()
        }
        self.bad.finish(task, num_good + num_bad - self.bad.count)
        return pools

    def _without_bare(self, path: Path, rows: Numbered) -> Numbered:
        for line, row in rows:
            if not row.options:
                self.bad.reject(path, line, "no options, but other rows of the task have them")
        return [(line, row) for line, row in rows if row.options]

    def _merged(self, path: Path, rows: Numbered, exclusive: bool) -> list[Example]:
        """Rows with one input become one: outputs are joined, or must agree if ``exclusive``."""
        first: dict[tuple[str, ...], tuple[int, Example]] = {}
        for line, row in rows:
            key = (row.input, *row.options)
            seen_line, seen = first.setdefault(key, (line, row))
            if exclusive and set(seen.outputs) != set(row.outputs):
                reason = f"another output than line {seen_line} for the same input"
                self.bad.reject(path, line, reason)
            else:
                outputs = tuple(dict.fromkeys((*seen.outputs, *row.outputs)))
                first[key] = (seen_line, replace(seen, outputs=outputs))
        if len(first) < len(rows):
            self.bad.note(f"{path}: {len(rows) - len(first)} rows repeat the input of another")
        return [row for _, row in first.values()]
