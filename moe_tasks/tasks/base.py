"""What is learned: tasks, their examples, and the collections that hold them.

A collection is one Arrow table (columns ``task, split, sample, input, outputs, options``) sorted
by ``(task, sample, split)``, so that the rows of one task, split and sample are one slice of a
memory-mapped file. Everything downstream names a task by its string; numbers exist only inside
a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa

from moe_tasks.errors import UserError, nearest

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Prompt = Literal["content", "instruction", "name"]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: its only identity everywhere outside a model.
        metric: name of a registered metric (``moe_tasks.evaluation.metrics``).
        category, subcategory: human labels, compared with the learned routes.
        instruction: one sentence saying what is wanted; empty when nobody wrote one.
        features: further facts (``classification``, ``extractive``, ``world_knowledge``, ...).
    """

    name: str
    metric: str
    category: str = "uncategorised"
    subcategory: str = ""
    instruction: str = ""
    features: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One example: an input, one or more accepted outputs, optional answer options."""

    input: str
    outputs: tuple[str, ...]
    options: tuple[str, ...] = ()


ROW_FEATURES = datasets.Features(
    {
        "task": datasets.Value("string"),
        "split": datasets.Value("string"),
        "sample": datasets.Value("string"),
        "input": datasets.Value("string"),
        "outputs": datasets.List(datasets.Value("string")),
        "options": datasets.List(datasets.Value("string")),
    }
)


class TaskCollection:
    """Tasks, their roles (train, dev and test *tasks*) and their examples.

    Args:
        tasks: by name.
        roles: role -> task names; a task has at most one role.
        samples: names of the few-shot samples, in order (the gym's seeds).
        rows: Arrow table with ``ROW_FEATURES``, sorted by (task, sample, split); any order of
            tasks, samples and splits as long as rows of one (task, sample, split) are adjacent.
        skipped: what reading left out, one line each (file:line and reason).
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        roles: Mapping[Split, Sequence[str]],
        samples: Sequence[str],
        rows: datasets.Dataset,
        skipped: Sequence[str] = (),
    ) -> None:
        self.tasks = dict(tasks)
        self.roles: dict[Split, tuple[str, ...]] = {s: tuple(roles.get(s, ())) for s in SPLITS}
        self.samples = tuple(samples)
        self.rows = rows
        self.skipped = tuple(skipped)
        self._slices = _slices(rows)

    def task(self, name: str) -> Task:
        """The task of that name; ``UserError`` with the nearest names otherwise."""
        if name not in self.tasks:
            raise UserError(f"unknown task {name!r}; {nearest(name, self.tasks)}")
        return self.tasks[name]

    def slice(self, task: str, split: Split, sample: str) -> range:
        """Row numbers in ``rows`` of one task, split and sample.

        Raises:
            UserError: there are no such rows.
        """
        self.task(task)
        key = (task, split, sample)
        if key not in self._slices:
            known = [s for t, sp, s in self._slices if t == task and sp == split]
            raise UserError(
                f"task {task!r} has no {split} rows for sample {sample!r}; {nearest(sample, known)}"
            )
        return self._slices[key]

    def has_rows(self, task: str, split: Split, sample: str) -> bool:
        """Whether there are any rows of one task, split and sample."""
        return (task, split, sample) in self._slices

    def examples(self, task: str, split: Split, sample: str) -> list[Example]:
        """The examples of one task, split and sample."""
        rows = self.slice(task, split, sample)
        table = self.rows[rows.start : rows.stop]
        return [
            Example(i, tuple(o), tuple(c))
            for i, o, c in zip(table["input"], table["outputs"], table["options"], strict=True)
        ]


def _slices(rows: datasets.Dataset) -> dict[tuple[str, str, str], range]:
    slices: dict[tuple[str, str, str], range] = {}
    for key, start, stop in _runs(rows):
        if key in slices:
            raise ValueError(f"rows of {key} are not adjacent")
        slices[key] = range(start, stop)
    return slices


def _runs(rows: datasets.Dataset) -> Iterator[tuple[tuple[str, str, str], int, int]]:
    names = ["task", "split", "sample"]
    table: Any = rows.select_columns(names).with_format("arrow")[:]
    columns = [column.combine_chunks() for column in table.columns]
    if not len(table):
        return
    starts = np.zeros(len(table), bool)  # compared column-wise: a loop over rows takes seconds
    starts[0] = True
    for column in columns:
        codes = column.dictionary_encode().indices.to_numpy()
        starts[1:] |= codes[1:] != codes[:-1]
    firsts = np.flatnonzero(starts)
    keys = zip(*(column.take(pa.array(firsts)).to_pylist() for column in columns), strict=True)
    yield from zip(keys, firsts.tolist(), [*firsts[1:].tolist(), len(table)], strict=True)
