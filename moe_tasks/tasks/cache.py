"""Arrow files that are made once and memory-mapped from then on.

A file's name is a hash of everything that decides its content, so a file is never out of date.
It is an Arrow stream followed by notes (JSON) and a checksum; one that is damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from moe_tasks.errors import UserError
from moe_tasks.training.files import digest, sync

_MAGIC = b"moetasks"
_FOOTER = struct.Struct("<QI8s")  # bytes of notes, CRC-32 of all before the footer, magic

Sink = Callable[[pa.RecordBatch], None]


def cache_path(folder: str | Path, kind: str, key: Mapping[str, Any]) -> Path:
    """The file for ``key``, a JSON-able mapping of everything that decides the content."""
    text = json.dumps(key, sort_keys=True)
    return Path(folder) / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.arrow"


def content_hash(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over the names relative to ``root`` and the contents of files, in the order given.

    Raises:
        UserError: a file cannot be read.
    """
    total = hashlib.sha256()
    for path in paths:
        name = str(path.relative_to(root)).encode("utf-8", "surrogateescape")
        with reading(path):
            total.update(b"%d %b %b" % (len(name), name, digest(path).encode()))
    return total.hexdigest()


def made_once(path: Path, schema: pa.Schema, make: Callable[[Sink], Any]) -> Any:
    """Make sure that ``path`` is whole; returns its notes.

    Args:
        make: called where the file is absent or damaged; gives record batches to the sink it is
            handed and returns the notes (anything JSON holds).

    Raises:
        UserError: the file cannot be written, and whatever ``make`` raises; then there is no file.
    """
    notes = _whole(path)
    if notes is None:
        with _written_aside(path) as file:
            with pa.ipc.new_stream(file, schema) as stream:
                made = make(stream.write_batch)
            _seal(file, json.dumps({"notes": made}).encode())
        notes = _whole(path)
        if notes is None:
            raise UserError(f"{path}: damaged right after it was written; is the disk sound?")
    return notes["notes"]


def mapped(path: Path) -> pa.Table:
    """The table of a whole file, memory-mapped."""
    with pa.ipc.open_stream(pa.memory_map(str(path))) as stream:
        return stream.read_all()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses while ``path`` is read into a ``UserError``."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise UserError(f"{path}: cannot be read: {reason}") from error


def _whole(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = len(data) - _FOOTER.size
            if start < 0:
                return None
            size, crc, magic = _FOOTER.unpack(data[start:])
            with memoryview(data) as view, view[:start] as sealed:
                if magic != _MAGIC or size > start or zlib.crc32(sealed) != crc:
                    return None
            return json.loads(data[start - size : start])
    except (OSError, ValueError):  # absent, empty or not readable
        return None


def _seal(file: BinaryIO, notes: bytes) -> None:
    file.write(notes)
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        crc = zlib.crc32(data)
    file.write(_FOOTER.pack(len(notes), crc, _MAGIC))


@contextlib.contextmanager
def _written_aside(path: Path) -> Iterator[BinaryIO]:
    aside = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written: {reason}; see key 'cache_dir'") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
