"""The report's figures go to wandb, and nothing that names the machine."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from analysis import report
from moe_tasks.training.wandb_log import log_report
from tests.analysis.folders import write_folder


def test_figures_of_the_report_are_logged_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ecret" * 7)
    run = write_folder(tmp_path / "my-run", hard=True)
    report.write(run)
    log_report(run)
    names = {f"report/{file.stem}" for file in (run / "report").glob("*.png")}
    assert len(names) > 10
    expected = [*names, "my-run-report"]
    deadline = time.monotonic() + 20  # wandb's own process writes the last bytes after finish()
    while not all(name.encode() in _content(run) for name in expected):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    media = list((run / "wandb").rglob("media/images/**/*.png"))
    assert len(media) == len(names)
    assert {file.read_bytes() for file in media} == {
        file.read_bytes() for file in (run / "report").glob("*.png")
    }
    summary = json.loads((run / "report" / "statistics.json").read_text())["summary"]
    assert summary[0].encode() in _content(run)
    assert b"5ecret" not in _content(run)


def _content(run: Path) -> bytes:
    return b"".join(file.read_bytes() for file in (run / "wandb").rglob("*.wandb"))


def test_without_report_or_wandb_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    log_report(tmp_path)
    report.write(write_folder(tmp_path / "run"))
    log_report(tmp_path / "run", "disabled")
    assert not (tmp_path / "run" / "wandb").exists()
