"""Files that are either whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a file with ``text``, in one step and durably.

    Raises:
        OSError: nothing was written; an older file of that name is as it was.
    """
    aside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        sync(aside)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
