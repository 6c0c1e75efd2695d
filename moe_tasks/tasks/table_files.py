"""Examples from JSONL, CSV, TSV and Parquet files with the fields input, output and options.

``output`` is one accepted output, ``outputs`` a list of them (one of the two), ``options`` an
optional list of possible answers that every output is among. In CSV and TSV lists are separated
by ``|``. CSV quotes as RFC 4180 says; TSV has no quoting. Other fields are not read.
"""

from __future__ import annotations

import csv
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.base import Example
from moe_tasks.tasks.cache import reading
from moe_tasks.tasks.json_lines import json_objects
from moe_tasks.tasks.reading import MAX_TEXT, BadRows, is_storable, make_example, text_lines

FIELDS = ("input", "output", "outputs", "options")
SEPARATOR = "|"

Record = Mapping[str, Any]


def read_examples(path: Path, options: Sequence[str], bad: BadRows) -> list[tuple[int, Example]]:
    """(line, example) of each usable row of a file; lines of a Parquet file are its rows, from 1.

    Args:
        options: of rows that have none of their own.
        bad: is told about the others.

    Raises:
        UserError: the file cannot be read as what its name says, or lacks a column.
    """
    examples = []
    for line, record in READERS[path.suffix.lower()](path, bad):
        try:
            examples.append((line, _example(record, options)))
        except ValueError as error:
            bad.reject(path, line, str(error))
    return examples


def _example(record: Record, options: Sequence[str]) -> Example:
    _check_fields(tuple(name for name, value in record.items() if value is not None))
    outputs = record.get("outputs")
    outputs = _texts(outputs, "outputs") if outputs is not None else [_of(record, "output")]
    own = record.get("options")
    if own is not None and own != []:
        options = [option.strip() for option in _texts(own, "options")]
        if not all(options) or not 2 <= len(options) == len(set(options)):
            raise ValueError(f"options {options!r:.200}: expected two or more different texts")
    return make_example(_of(record, "input"), outputs, options)


@lru_cache(maxsize=256)
def _check_fields(names: tuple[str, ...]) -> None:
    """``ValueError`` unless there is an input, one of output and outputs, and no near miss."""
    if "input" not in names:
        raise ValueError(f"no 'input'; {nearest('input', names, 1)}")
    if ("output" in names) == ("outputs" in names):
        problem = "both 'output' and 'outputs'" if "output" in names else "no 'output'"
        raise ValueError(f"{problem}; {nearest('output', names, 1)}")
    if "options" not in names and (near := get_close_matches("options", names, cutoff=0.8)):
        raise ValueError(f"unknown field {near[0]!r}; did you mean 'options'?")


def _of(record: Record, name: str) -> str:
    return as_text(record[name], name)


def _texts(values: Any, name: str) -> list[str]:
    if not isinstance(values, list):
        raise ValueError(f"{name!r} is {values!r:.80}; expected a list")
    return [as_text(value, name) for value in values]


def as_text(value: Any, name: str) -> str:
    """A cell's text, or number, as text; ``ValueError`` that names the column for others."""
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is {value!r:.80}; expected text")
    if len(value) > MAX_TEXT:
        raise ValueError(f"{name!r} has {len(value)} characters; at most {MAX_TEXT} are read")
    if not is_storable(value):
        raise ValueError(f"{name!r} holds a NUL or half a character")
    return value


def _jsonl(path: Path, bad: BadRows) -> Iterator[tuple[int, Record]]:
    # Numbers stay as they are written: 3.50 is not 3.5 when an output is compared.
    return json_objects(path, bad, number=str)


def _csv(path: Path, bad: BadRows) -> Iterator[tuple[int, Record]]:
    lines = _Counted(text_lines(path, bad))
    rows = csv.reader(lines, strict=True)

    def parsed() -> Iterator[tuple[int, list[str]]]:
        while True:
            start = lines.last + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                bad.reject(path, start, f"not CSV: {error}")
                continue
            if row is None:
                return
            yield start, row

    return _with_header(path, parsed(), bad)


def _tsv(path: Path, bad: BadRows) -> Iterator[tuple[int, Record]]:
    rows = ((number, line.split("\t")) for number, line in text_lines(path, bad) if line)
    return _with_header(path, rows, bad)


class _Counted:
    """Lines with their ends, remembering the number of the last one given."""

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self._lines = iter(lines)
        self.last = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last, line = next(self._lines)
        return line + "\n"


def _with_header(
    path: Path, rows: Iterator[tuple[int, list[str]]], bad: BadRows
) -> Iterator[tuple[int, Record]]:
    header: list[str] | None = None
    for number, cells in rows:
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_columns(path, header)
        elif len(cells) != len(header):
            reason = f"{len(cells)} columns; expected {len(header)} ({', '.join(header)})"
            bad.reject(path, number, reason)
        else:
            yield number, _split_lists(dict(zip(header, cells, strict=True)))


def _split_lists(cells: dict[str, str]) -> Record:
    lists = {name: cells[name].split(SEPARATOR) for name in ("outputs", "options") if name in cells}
    if not cells.get("options", "").strip():
        lists.pop("options", None)
        cells = {name: cell for name, cell in cells.items() if name != "options"}
    return {**cells, **lists}


def _check_columns(path: Path, names: Sequence[str]) -> None:
    try:
        _check_fields(tuple(names))
        if len(set(names) & set(FIELDS)) < sum(name in FIELDS for name in names):
            raise ValueError("a column twice")
    except ValueError as error:
        raise UserError(f"{path}:1: header: {error}") from error


def _parquet(path: Path, bad: BadRows) -> Iterator[tuple[int, Record]]:
    with reading(path):
        try:
            with pq.ParquetFile(path) as file:
                _check_columns(path, file.schema_arrow.names)
                columns = [name for name in FIELDS if name in file.schema_arrow.names]
                batches = list(file.iter_batches(columns=columns))
        except UserError:
            raise
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"{path}: not Parquet: {' '.join(str(error).split())}") from error
    number = 0
    for batch in batches:
        for row in range(len(batch)):
            number += 1
            try:
                yield number, {name: batch[name][row].as_py() for name in columns}
            except (ValueError, ArithmeticError) as error:  # among them text that is not UTF-8
                bad.reject(path, number, str(error))


READERS: dict[str, Callable[[Path, BadRows], Iterator[tuple[int, Record]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
