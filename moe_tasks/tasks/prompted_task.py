"""Prompted tasks: raw rows and several wordings; and the collection that draws among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.base import Example, Split, Task, TaskCollection
from moe_tasks.tasks.raw_rows import RawRow
from moe_tasks.tasks.reading import BadRows, Row
from moe_tasks.tasks.sampling import uniform
from moe_tasks.tasks.templates import Template

SAMPLE = "all"  # prompted tasks have no few-shot samples
DRAWN, EVERY = "random", "all"
_HELD_OUT_SHARE, _MAX_HELD_OUT = 0.2, 200

Pools = Mapping[Split, Sequence[RawRow]]


@dataclass(frozen=True)
class PromptedTask:
    """A task before it is worded.

    Attributes:
        task: its facts; ``instruction`` describes it.
        templates: its wordings, at least one.
        read: the raw rows of each split there is; called when they are needed.
        role: train, dev or test *task*.
        origin: JSON-able; what decides rows and templates, for caches.
    """

    task: Task
    templates: tuple[Template, ...]
    read: Callable[[], Pools]
    role: Split
    origin: Any

    @property
    def name(self) -> str:
        return self.task.name

    def template(self, name: str) -> Template:
        """The template of that name; ``UserError`` with the nearest otherwise."""
        for template in self.templates:
            if template.name == name:
                return template
        known = nearest(name, (template.name for template in self.templates))
        raise UserError(f"task {self.name!r} has no template {name!r}; {known}")

    @cached_property
    def pools(self) -> dict[Split, list[RawRow]]:
        """Raw rows by split. A training task has all three: what has no file is held out of the
        train rows (of the only file, where there is but one). An unseen one has test rows: those
        of its test file, or else of the file there is."""
        pools: dict[Split, list[RawRow]] = {s: list(rows) for s, rows in self.read().items()}
        if self.role == "test":
            if "test" not in pools:
                pools = {"test": pools.get("dev") or pools["train"]}
            return pools
        if "train" not in pools:
            pools = {"train": pools.get("test") or pools["dev"]}
        missing: tuple[Split, ...] = ("test", "dev")
        for split in missing:
            if split not in pools:
                pools["train"], pools[split] = _held_out(pools["train"], self.name, split)
        return pools

    def forget(self) -> None:
        """Let go of the raw rows, which are read again when they are needed."""
        vars(self).pop("pools", None)

    def worded(self, split: Split, template: Template, bad: BadRows | None = None) -> list[Example]:
        """The rows of a split in one wording, without those that the template passes over.

        Args:
            bad: is told about rows that cannot be worded; without it they are errors.

        Raises:
            UserError: a row cannot be worded, or none is left; names task, template and row.
        """
        found = []
        for row in self.pools[split]:
            example = self._example(row, template, bad)
            if example is not None:
                found.append(example)
        if not found:
            raise UserError(
                f"task {self.name!r}, template {template.name!r}: no {split} row has an input and "
                "a target in this wording"
            )
        return found

    def drawn(self, split: Split, seed: int, bad: BadRows) -> Iterator[Example]:
        """The rows of a split, each in a wording of its own (a function of ``seed``)."""
        rows, count = self.pools[split], len(self.templates)
        ranks = uniform(len(rows) * count, seed, "template", self.name, split)
        for row, order in zip(rows, numpy.argsort(ranks.reshape(-1, count)), strict=True):
            for number in order.tolist():
                num_bad = bad.count
                example = self._example(row, self.templates[number], bad)
                if example is not None:
                    yield example
                if example is not None or bad.count > num_bad:
                    break

    def _example(self, row: RawRow, template: Template, bad: BadRows | None) -> Example | None:
        try:
            return template.example(row.columns)
        except ValueError as error:
            where = f"task {self.name!r}, template {template.name!r}, row {row.where}"
            (bad or BadRows()).reject_at(where, str(error))
            return None


def given(pools: Pools) -> Pools:
    """What ``PromptedTask.read`` is where rows are known already: ``partial(given, pools)``."""
    return pools


def _held_out(rows: list[RawRow], name: str, split: Split) -> tuple[list[RawRow], list[RawRow]]:
    size = min(_MAX_HELD_OUT, int(len(rows) * _HELD_OUT_SHARE))
    if not size:
        raise UserError(f"task {name!r}: {len(rows)} rows are too few for train, dev and test")
    order = numpy.argsort(uniform(len(rows), "held out", name, split), kind="stable").tolist()
    chosen = set(order[:size])
    kept = [row for number, row in enumerate(rows) if number not in chosen]
    return kept, [rows[number] for number in sorted(chosen)]


class PromptedCollection(TaskCollection):
    """A collection whose rows were worded by templates, which it still knows.

    Attributes:
        prompted: name -> task with its templates and raw rows.
    """

    def __init__(
        self, prompted: Sequence[PromptedTask], rows: datasets.Dataset, skipped: Sequence[str]
    ) -> None:
        self.prompted = {task.name: task for task in prompted}
        roles: dict[Split, list[str]] = {"train": [], "dev": [], "test": []}
        for task in prompted:
            roles[task.role].append(task.name)
        facts = {task.name: task.task for task in prompted}
        super().__init__(facts, roles, (SAMPLE,), rows, skipped)


def worded_rows(
    tasks: Sequence[PromptedTask], template: str, seed: int, bad: BadRows
) -> Iterator[Row]:
    """Rows of all tasks for the collection's table.

    Args:
        template: ``random`` gives every row one drawn wording, ``all`` every wording in turn, a
            template's name that one.
    """
    for task in tasks:
        count = 0
        for split in task.pools:
            for example in _worded(task, split, template, seed, bad):
                count += 1
                yield task.name, SAMPLE, split, example
        bad.finish(task.name, count)
        if task.role == "train":  # nobody words them anew
            task.forget()


def _worded(
    task: PromptedTask, split: Split, template: str, seed: int, bad: BadRows
) -> Iterator[Example]:
    if template == DRAWN:
        yield from task.drawn(split, seed, bad)
    elif template == EVERY:
        for wording in task.templates:
            yield from task.worded(split, wording, bad)
    else:
        yield from task.worded(split, task.template(template), bad)
