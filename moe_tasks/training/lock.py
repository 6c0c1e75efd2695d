"""One process per run folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path
from types import TracebackType

from moe_tasks.errors import UserError

logger = logging.getLogger(__name__)


class RunLock:
    """Holds ``<folder>/.lock`` for as long as the ``with`` block or the process lives.

    The lock is the kernel's (flock), so it ends with its process however that ends: a file left
    behind by a dead one is no obstacle.

    Raises:
        UserError: on entering, when another process holds it or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                # Some network file systems have no locks; training is possible without.
                logger.warning("%s: no locks here (%s)", self.path, error.strerror)
                return self
            raise UserError(
                f"{self.path.parent} is in use by another process ({holder or 'unknown'}); "
                "wait for it, stop it, or choose another run_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
