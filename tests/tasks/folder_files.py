"""Writes small folders for ``tasks=folder``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moe_tasks.tasks.base import TaskCollection
from moe_tasks.tasks.folder import FolderTasks

Rows = list[dict[str, Any]]


def free(count: int, kind: str = "row") -> Rows:
    return [{"input": f"{kind} {i}", "output": f"answer {i}"} for i in range(count)]


def labelled(count: int, labels: tuple[str, ...] = ("yes", "no"), kind: str = "row") -> Rows:
    return [
        {"input": f"{kind} {i}", "output": labels[i % len(labels)], "options": list(labels)}
        for i in range(count)
    ]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def delimited(rows: Rows, delimiter: str) -> bytes:
    cells = [{k: "|".join(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
    file = io.StringIO()
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter, quoting=quoting, quotechar='"')
    writer.writeheader()
    writer.writerows(cells)
    return file.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    file = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue().to_pybytes()


WRITE = {
    "jsonl": jsonl,
    "csv": lambda rows: delimited(rows, ","),
    "tsv": lambda rows: delimited(rows, "\t"),
    "parquet": parquet,
}


def put(root: Path, name: str, content: bytes) -> Path:
    path = root / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def build(root: Path, **keys: Any) -> TaskCollection:
    keys = {"cache_dir": str(root / "cache"), **keys}
    return FolderTasks(str(root / "data"), **keys).build()


def cache_files(root: Path) -> list[Path]:
    return sorted((root / "cache").iterdir()) if (root / "cache").exists() else []
