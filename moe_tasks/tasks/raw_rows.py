"""Rows with the columns of their data set: local JSONL, Parquet and Arrow, or the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.base import SPLITS, Split
from moe_tasks.tasks.cache import reading
from moe_tasks.tasks.json_lines import json_objects
from moe_tasks.tasks.reading import BadRows
from moe_tasks.tasks.sampling import shuffled

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
        path, name, revision: as for ``datasets.load_dataset``.
        splits: our split -> the data set's.
    """

    path: str
    name: str | None = None
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "test": "validation"})
    revision: str | None = None

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise ValueError(f"'splits': no split {split!r}; {nearest(split, SPLITS)}")

    def read(self, split: Split, limit: int | None = None) -> list[RawRow]:
        """Rows of one split, at most ``limit`` (see ``drawn``).

        Raises:
            UserError: the data set cannot be reached or has no such split.
        """
        of_hub = self.splits[split]
        try:
            rows = self._load(of_hub)
            places = drawn(len(rows), limit)
            found: Iterable[Any] = rows if limit is None else rows.select(places)
            where = f"{self.path}/{of_hub}"
            return [RawRow(row, f"{where}:{n + 1}") for n, row in zip(places, found, strict=True)]
        except Exception as error:  # whatever the library, the hub or the network say
            reason = " ".join(str(error).split()) or type(error).__name__
            of = f"{self.path}{f' ({self.name})' if self.name else ''}, split {of_hub}"
            raise UserError(f"hub data set {of}: {reason}") from error

    def _load(self, split: str) -> Any:
        import datasets

        try:
            return datasets.load_dataset(self.path, self.name, split=split, revision=self.revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
        # Of data sets that are a program, which is not run here, the hub keeps the rows as well.
        export = f"hf://datasets/{self.path}@refs%2Fconvert%2Fparquet/{self.name or '*'}/{split}"
        files = {split: f"{export}/*.parquet"}
        return datasets.load_dataset("parquet", data_files=files, split=split)


def drawn(count: int, limit: int | None) -> list[int]:
    """Places of at most ``limit`` of ``count`` rows, ascending: always the same ones, and from
    everywhere, because files are often sorted by label."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(shuffled(count, "rows")[:limit].tolist())


def drawn_rows(rows: Sequence[RawRow], limit: int | None) -> list[RawRow]:
    """The rows at the places that ``drawn`` says."""
    return [rows[place] for place in drawn(len(rows), limit)]


def read_raw_rows(path: Path, limit: int | None = None) -> list[RawRow]:
    """Rows of a local file, at most ``limit`` (see ``drawn``); those of Parquet and Arrow files are
    counted from 1.

    Raises:
        UserError: it cannot be read as what its name says, or has no rows; names file and line.
    """
    rows = list(_jsonl(path) if path.suffix == ".jsonl" else _arrow(path))
    if not rows:
        raise UserError(f"{path}: no rows")
    return drawn_rows(rows, limit)


def _jsonl(path: Path) -> Iterable[RawRow]:
    rows = json_objects(path, BadRows())
    return (RawRow(columns, f"{path}:{line}") for line, columns in rows)


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
