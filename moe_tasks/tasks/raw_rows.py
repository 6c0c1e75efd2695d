"""Rows with the columns of their data set: local JSONL, Parquet and Arrow, or the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import Split
from moe_tasks.tasks.cache import reading
from moe_tasks.tasks.reading import BadRows, text_lines

SUFFIXES = (".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class RawRow:
    """One row and where it comes from, such as ``file:line``."""

    columns: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class HubRows:
    """A data set of the Hugging Face hub.

    Attributes:
        path, name: as for ``datasets.load_dataset``.
        splits: our split -> the data set's.
    """

    path: str
    name: str | None = None
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})

    def read(self, split: Split, limit: int | None = None) -> list[RawRow]:
        """Rows of one split, the first ``limit``.

        Raises:
            UserError: the data set cannot be reached or has no such split.
        """
        import datasets

        of_hub = self.splits[split]
        try:
            rows = datasets.load_dataset(self.path, self.name, split=of_hub)
        except Exception as error:  # whatever the library, the hub or the network say
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error)
            where = f"{self.path}{f' ({self.name})' if self.name else ''}, split {of_hub}"
            raise UserError(f"hub data set {where}: {reason}") from error
        found: Iterable[Any] = islice(rows, limit)
        return [RawRow(row, f"{self.path}/{of_hub}:{n}") for n, row in enumerate(found, 1)]


def read_raw_rows(path: Path, limit: int | None = None) -> list[RawRow]:
    """Rows of a local file, the first ``limit``; Parquet and Arrow rows are counted from 1.

    Raises:
        UserError: it cannot be read as what its name says, or has no rows; names file and line.
    """
    rows = _jsonl(path) if path.suffix == ".jsonl" else _arrow(path)
    found = list(islice(rows, limit))
    if not found:
        raise UserError(f"{path}: no rows")
    return found


def _jsonl(path: Path) -> Iterable[RawRow]:
    for number, line in text_lines(path, BadRows()):
        if not line.strip():
            continue
        try:
            columns = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(columns, dict):
            raise UserError(f"{path}:{number}: expected {{...}}, got {line.strip():.60}")
        yield RawRow(columns, f"{path}:{number}")


def _arrow(path: Path) -> Iterable[RawRow]:
    with reading(path):
        try:
            table = pq.read_table(path) if path.suffix == ".parquet" else _arrow_table(path)
        except (pa.ArrowException, ValueError) as error:
            kind = path.suffix[1:].capitalize()
            raise UserError(f"{path}: not {kind}: {' '.join(str(error).split())}") from error
    number = 0
    for batch in table.to_batches(max_chunksize=1000):
        for columns in batch.to_pylist():
            number += 1
            yield RawRow(columns, f"{path}:{number}")


def _arrow_table(path: Path) -> pa.Table:
    """A file or a stream: the datasets library writes streams."""
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()
