"""GLUE's tables on the hub (``nyu-mll/glue``), where columns and numbers of labels differ from the
official files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.evaluation.metrics import finite_number
from moe_tasks.tasks.base import Task
from moe_tasks.tasks.detailed import (
    DetailedCollection,
    Made,
    Origin,
    assemble,
    cell,
    labelled,
    text_cell,
)
from moe_tasks.tasks.raw_rows import HubRows, RawRow
from moe_tasks.tasks.reading import BadRows, make_example

LOWEST, HIGHEST = 0.0, 5.0  # of STS-B's scores


@dataclass(frozen=True)
class HubTask:
    """Attributes:
    table: the configuration of the hub's data set.
    texts: columns of the one or two texts.
    labels: by the hub's numbers; none is a regression.
    dev, test: names of splits.
    """

    table: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ("0", "1")
    dev: str = "validation"
    test: str = "test"


_PAIR, _NLI = ("sentence1", "sentence2"), ("premise", "hypothesis")
_ENTAILMENT = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")
TABLES = {
    "cola": HubTask("cola", ("sentence",)),
    "sst-2": HubTask("sst2", ("sentence",)),
    "mrpc": HubTask("mrpc", _PAIR),
    "sts-b": HubTask("stsb", _PAIR, ()),
    "qqp": HubTask("qqp", ("question1", "question2")),
    "mnli": HubTask("mnli", _NLI, _THREE, "validation_matched", "test_matched"),
    "mnli-mm": HubTask("mnli", _NLI, _THREE, "validation_mismatched", "test_mismatched"),
    "qnli": HubTask("qnli", ("question", "sentence"), _ENTAILMENT),
    "rte": HubTask("rte", _PAIR, _ENTAILMENT),
    "wnli": HubTask("wnli", _PAIR),
    "ax": HubTask("ax", _NLI, _THREE),
}


def read_glue(
    hub: str,
    tasks: Mapping[str, Task],
    trained: Sequence[str],
    separator: str,
    cache_dir: str,
    bad: BadRows,
) -> DetailedCollection:
    """The rows of ``tasks``, as the official folders give them.

    Args:
        trained: those that have train rows.

    Raises:
        UserError: the hub cannot be reached or its rows are malformed; names the row.
    """
    origins = []
    for name in tasks:
        splits = {"train": "train"} if name in trained else {}
        place = HubRows(hub, TABLES[name].table, {**splits, "dev": TABLES[name].dev})
        origins += [Origin(name, split, place) for split in place.splits]  # type: ignore[arg-type]
    convert = partial(_convert, tasks=tasks, separator=separator)
    key = {"glue": list(tasks), "separator": separator}
    return assemble(tasks, origins, lambda *_: (), convert, key, cache_dir, bad, trained)


def read_glue_test(hub: str, tasks: Iterable[str], separator: str) -> dict[str, list[str]]:
    """Task -> the input of each row of its test split, in order; ``UserError`` as above."""
    return {name: _test_inputs(hub, TABLES[name], separator) for name in tasks}


def _test_inputs(hub: str, table: HubTask, separator: str) -> list[str]:
    inputs = []
    for row in HubRows(hub, table.table, {"test": table.test}).read("test"):
        try:  # a row may lack a text, but not its place
            texts = [str(cell(row.columns, name)).strip() for name in table.texts]
        except ValueError as error:
            raise UserError(f"{row.where}: {error}") from None
        inputs.append(separator.join(texts))
    return inputs


def _convert(origin: Origin, row: RawRow, tasks: Mapping[str, Task], separator: str) -> list[Made]:
    table, columns = TABLES[origin.task], row.columns
    if table.labels:
        example = labelled(columns, table.texts, table.labels, separator)
        # In the order of the official files, which heads have.
        labels = tuple(tasks[origin.task].features["labels"])
        return [(replace(example, options=labels), {})]
    value = check_similarity("label", cell(columns, "label"))
    text = separator.join(text_cell(columns, name) for name in table.texts)
    return [(make_example(text, [f"{value:.3f}"]), {})]


def check_similarity(column: str, value: Any) -> float:
    """The number that a cell, or its text, is; ``ValueError`` if it is no score of STS-B."""
    number = finite_number(str(value))
    if number is None or isinstance(value, bool):
        raise ValueError(f"{column!r} is {value!r:.60}; expected a number")
    if not LOWEST <= number <= HIGHEST:
        reason = "a row without a label" if number == -1 else "outside the scores"
        raise ValueError(f"{column!r} is {number:g}: {reason}; valid: {LOWEST:g} to {HIGHEST:g}")
    return number
