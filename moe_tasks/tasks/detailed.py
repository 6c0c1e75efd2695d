"""Collections made from the columns of a data set, from files or the hub, with facts beside rows.

A reader says how one raw row becomes an example; ``assemble`` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.base import Example, Split, Task, TaskCollection
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.raw_rows import HubRows, RawRow
from moe_tasks.tasks.reading import BadRows, Row, cached_rows, make_example
from moe_tasks.tasks.table_files import as_text

SAMPLE = "full"
Details = Mapping[str, Any]  # JSON-able
Read = Callable[[Path, BadRows], Iterable[RawRow]]


class DetailedCollection(TaskCollection):
    """A collection with facts about rows that are not in their texts.

    Attributes:
        details: name -> a value per row of ``rows``; None where a row has none.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        roles: Mapping[Split, Sequence[str]],
        rows: datasets.Dataset,
        skipped: Sequence[str],
        details: Mapping[str, Sequence[Any]],
    ) -> None:
        super().__init__(tasks, roles, (SAMPLE,), rows, skipped)
        self.details = {name: tuple(values) for name, values in details.items()}

    def of_rows(self, name: str, task: str, split: Split) -> tuple[Any, ...]:
        """One detail of the rows of a task and split, in their order."""
        rows = self.slice(task, split, SAMPLE)
        return self.details[name][rows.start : rows.stop]


@dataclass(frozen=True)
class Origin:
    """Where the rows of one split of a task lie: in a file, or on the hub."""

    task: str
    split: Split
    place: Path | HubRows

    def key(self) -> list[Any]:
        """What decides the rows."""
        if isinstance(self.place, HubRows):
            return [self.task, self.split, asdict(self.place)]
        return [self.task, self.split, self.place.name]


Made = tuple[Example, Details]
Convert = Callable[[Origin, RawRow], Sequence[Made]]


def assemble(
    tasks: Mapping[str, Task],
    origins: Sequence[Origin],
    read: Read,
    convert: Convert,
    key: Mapping[str, Any],
    cache_dir: str,
    bad: BadRows,
    trained: Sequence[str] | None = None,
) -> DetailedCollection:
    """The collection of ``tasks``; its table from the cache if it is there.

    Args:
        origins: a task's follow each other.
        read: rows of a file.
        convert: origin and raw row -> examples with details; ``ValueError`` for a row without use.
        key: what else decides the rows.
        trained: tasks that are trained on; all if ``None``.

    Raises:
        UserError: something is missing or malformed; names file and line, or the hub's row.
    """
    files = [origin.place for origin in origins if isinstance(origin.place, Path)]
    whole_key = {
        **key,
        "origins": [origin.key() for origin in origins],
        "content": [content_hash([file], file.parent) for file in files],
        "bad_rows": [bad.policy, bad.max_share],
    }
    found: list[Details] = []

    def rows() -> Iterator[Row]:
        for task in tasks:
            own = [origin for origin in origins if origin.task == task]
            before = len(found)
            for origin in own:
                for example, details in _examples(origin, read, convert, bad):
                    found.append(details)
                    yield task, SAMPLE, origin.split, example
            bad.finish(task, len(found) - before)

    table, notes = cached_rows(
        cache_dir, whole_key, rows, lambda: {"skipped": bad.skipped, "details": _columns(found)}
    )
    return DetailedCollection(
        tasks, {"train": list(trained or tasks)}, table, notes["skipped"], notes["details"]
    )


def _examples(origin: Origin, read: Read, convert: Convert, bad: BadRows) -> Iterator[Made]:
    place, count = origin.place, 0
    rows = place.read(origin.split) if isinstance(place, HubRows) else read(place, bad)
    for row in rows:
        try:
            made = convert(origin, row)
        except ValueError as error:
            bad.reject_at(row.where, str(error))
            continue
        count += len(made)
        yield from made
    if not count:
        where = place.path if isinstance(place, HubRows) else place
        raise UserError(f"{where}: no usable {origin.split} rows of {origin.task!r}")


def _columns(found: Sequence[Details]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for details in found for name in details)
    return {name: [details.get(name) for details in found] for name in names}


def cell(columns: Mapping[str, Any], name: str) -> Any:
    """The value of a column; ``ValueError`` with the nearest column where there is none."""
    if not isinstance(columns, Mapping):
        raise ValueError(f"{columns!r:.60}: expected {{...}} with {name!r}")
    if columns.get(name) is None:
        there = [column for column, value in columns.items() if value is not None]
        raise ValueError(f"no {name!r}; {nearest(name, there)}")
    return columns[name]


def text_cell(columns: Mapping[str, Any], name: str) -> str:
    """The text of a column, without white space at the ends; ``ValueError`` if it is none."""
    text = as_text(cell(columns, name), name).strip()
    if not text:
        raise ValueError(f"{name!r} is empty")
    return text


def list_cell(columns: Mapping[str, Any], name: str) -> list[Any]:
    """The list of a column; ``ValueError`` if it is none."""
    values = cell(columns, name)
    if not isinstance(values, list):
        raise ValueError(f"{name!r} is {values!r:.60}; expected a list")
    return values


def number_cell(columns: Mapping[str, Any], name: str) -> int:
    """The whole number, 0 or more, of a column; ``ValueError`` if it is none."""
    value = cell(columns, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name!r} is {value!r:.60}; expected a whole number, 0 or more")
    return value


def labelled(
    columns: Mapping[str, Any], texts: Sequence[str], labels: Sequence[str], separator: str
) -> Example:
    """An example of a classification task: texts joined, one of ``labels``.

    A label is its text, true or false, or its number.
    """
    label = label_cell(cell(columns, "label"), labels)
    return make_example(separator.join(text_cell(columns, n) for n in texts), [label], labels)


def label_cell(value: Any, labels: Sequence[str]) -> str:
    """The label that a value names, see :func:`labelled`; ``ValueError`` where it names none."""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, int):
        if not 0 <= value < len(labels):
            reason = "a row without a label" if value == -1 else "outside the list of labels"
            raise ValueError(f"'label' is {value}: {reason}; valid: 0 to {len(labels) - 1}")
        return labels[value]
    if value not in labels:
        raise ValueError(f"'label' is {value!r:.60}; {nearest(str(value)[:60], labels)}")
    return value


def check_files(origins: Sequence[Origin]) -> list[Origin]:
    """``origins``; ``UserError`` with the nearest name where one of their files is missing."""
    for path in (origin.place for origin in origins):
        if isinstance(path, Path) and not path.is_file():
            there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(f"no file {path}; {nearest(path.name, there)}")
    return list(origins)


def one_source(path: str | None, hub: str | None) -> None:
    """``ValueError`` unless rows come from exactly one of a folder and the hub."""
    if (path is None) == (hub is None):
        given = "both are given" if path else "neither is given"
        raise ValueError(f"'path' (a folder) or 'hub' (a data set of the hub): {given}")
