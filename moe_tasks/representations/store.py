"""Raw vectors on disk, each computed once, whoever asks and however often the work is stopped."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.training.files import sync


def write_whole(path: Path, data: bytes) -> None:
    """Replace ``path`` by a file with ``data``, in one step and durably.

    Raises:
        UserError: the folder cannot be written; nothing was.
    """
    aside = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(data)
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


class RawStore:
    """Vectors by key; a key is a JSON-able mapping of everything that decides the vector.

    Args:
        folder: of one file per vector, named by the hash of its key; ``None`` keeps vectors in
            memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, Tensor] = {}

    def find(self, key: Mapping[str, Any]) -> Tensor | None:
        """The vector of that key; ``None`` if it is absent or its file is damaged."""
        name = _name(key)
        if self.folder is None:
            return self._memory.get(name)
        try:
            return load_file(self.folder / name)["vector"]
        except (OSError, SafetensorError, KeyError):
            return None

    def once(self, key: Mapping[str, Any], compute: Callable[[], Tensor]) -> Tensor:
        """The vector of that key, computed if it is absent; other processes wait meanwhile."""
        found = self.find(key)
        if found is not None:
            return found
        name = _name(key)
        if self.folder is None:
            return self._memory.setdefault(name, compute())
        with _locked(self.folder / f"{name}.lock"):
            found = self.find(key)  # another process may have been faster
            if found is None:
                found = compute()
                write_whole(self.folder / name, save({"vector": found.contiguous()}))
        return found


def _name(key: Mapping[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.safetensors"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the kernel's lock on ``path``, which ends with its process however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written: {error.strerror}") from error
    with file:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        # Who waits on this file finds the vector; who comes later makes a new one, and finds it.
        path.unlink(missing_ok=True)
