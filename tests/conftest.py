"""Fixtures that every test may use."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real tasks and published numbers, where a checkout has one beside it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder with real data beside this checkout")
    return folder


@pytest.fixture
def export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``python -m moe_tasks.export`` in ``tmp_path``, with these arguments; what it prints."""
    from moe_tasks.cli import main
    from moe_tasks.export import job

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["export.py", *arguments])
        main(job, "export")
        return capfd.readouterr().out

    monkeypatch.chdir(tmp_path)
    return call
