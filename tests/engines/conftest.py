"""Tests that start processes."""

from __future__ import annotations

from multiprocessing import forkserver

import pytest

from tests.engines import launching


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the server begin to import now, before another test starts one that imports less."""
    if session.items and not session.config.option.collectonly:
        forkserver.set_forkserver_preload(list(launching.PRELOADED))
        forkserver.ensure_running()
