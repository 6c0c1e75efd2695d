"""What is written and shown beside training."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moe_tasks.errors import UserError
from moe_tasks.training.callbacks import CollapseWarning, JsonLines, Start
from moe_tasks.training.progress import GridProgress, ProgressDisplay
from moe_tasks.training.wandb_log import WandbLog
from tests.training import tiny


def _start(system: str = "tiny", step: int = 0, logged_step: int | None = None) -> Start:
    logged = step if logged_step is None else logged_step
    return Start(system, tiny.model(), {"steps": 20}, step, 20, logged)


def test_records_of_a_run(tmp_path: Path) -> None:
    runner = tiny.trainer(tmp_path, trained=tiny.model("gumbel_st"))
    runner.fit()
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15, 18, 20]
    for line in lines:
        assert line["system"] == "tiny"
        assert line["rows_per_s"] > 0
        assert line["tokens_per_s"] > line["rows_per_s"]
        assert 0 < line["padding"] < 1
        assert line["skipped"] == 0
        assert {"lr", "lr_router", "lr_task_vectors", "grad_norm"} <= set(line)
        assert {"temperature", "route_entropy", "route_collapse"} <= set(line)
        assert ("eval_loss" in line) == (line["step"] in (6, 12, 18, 20))
    assert lines[-1]["eval_loss"] == runner.state.history[-1]["loss"]


def test_logged_loss_is_the_mean_since_the_last_record(tmp_path: Path) -> None:
    losses = tiny.Losses()
    tiny.trainer(tmp_path, callbacks=[losses], steps=6).fit()
    by_step = losses.by_step
    first, second = (line["loss"] for line in tiny.log_lines(tmp_path))
    assert first == pytest.approx(sum(by_step[s] for s in (1, 2, 3)) / 3)  # type: ignore[misc]
    assert second == pytest.approx(sum(by_step[s] for s in (4, 5, 6)) / 3)  # type: ignore[misc]


def test_continuing_cuts_later_torn_and_foreign_lines(tmp_path: Path, caplog) -> None:
    path = tmp_path / "train.jsonl"
    kept = ['{"system": "other", "step": 9}', '{"system": "tiny", "step": 5}']
    removed = ['{"system": "tiny", "step": 6}', "[1]", "\x00\x00", '{"system": "tiny", "st']
    path.write_text("\n".join([*kept, *removed]))
    JsonLines(path).on_start(_start(step=6, logged_step=5))
    assert path.read_text() == "\n".join(kept) + "\n"
    assert "removed an unreadable line" in caplog.text


def test_figures_without_value_are_null(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    JsonLines(path).on_log({"system": "a", "step": 1, "loss": float("nan"), "x": float("inf")})
    assert json.loads(path.read_text()) == {"system": "a", "step": 1, "loss": None, "x": None}


def test_log_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*train\.jsonl"):
        JsonLines(path).on_log({"step": 1})
    with pytest.raises(UserError, match=r"cannot write .*train\.jsonl"):
        JsonLines(path).on_start(_start())


def test_collapse_is_reported_once(caplog) -> None:
    callback = CollapseWarning(share=0.5, patience=2)
    callback.on_start(_start())
    for step, share in enumerate([0.9, 0.1, 0.9, 0.9, 0.9, 0.9]):
        callback.on_log({"step": step, "route_collapse": share})
    assert caplog.text.count("routes have collapsed") == 1
    assert "step 3: routes have collapsed: in 90% of the layers" in caplog.text
    callback.on_log({"step": 9})  # a dense model has no such figure


def test_collapse_of_one_task_is_no_news(caplog) -> None:
    start = _start()
    start.model.task_names = ("only",)
    callback = CollapseWarning(patience=1)
    callback.on_start(start)
    callback.on_log({"step": 1, "route_collapse": 1.0})
    assert not caplog.text


def test_plain_progress() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(stream, every=0.0)
    display.on_start(_start())
    assert stream.getvalue() == "tiny: step 0/20\n"
    display.on_step(1, 2.0)
    display.on_log({"loss": 1.5, "rows_per_s": 99.6, "temperature": 2.0, "route_entropy": 1.0986,
                    "skipped": 0, "eval_loss": 1.25})  # fmt: skip
    display.on_step(10, 2.0)
    display.on_end(True)
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("tiny: step 10/20, 0:00 left, loss 1.500, dev 1.250, 100 rows/s, ")
    assert last.endswith("temperature 2.00, route entropy 1.10")


def test_plain_progress_is_not_chatty() -> None:
    stream = io.StringIO()
    tiny.trainer(None, callbacks=[ProgressDisplay(stream, every=60.0)]).fit()
    first, last = stream.getvalue().splitlines()
    assert first == "tiny: step 0/20"
    assert last.startswith("tiny: step 20/20, loss ")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = _Terminal()
    runner = tiny.trainer(
        None, trained=tiny.model("gumbel_st"), callbacks=[ProgressDisplay(stream)]
    )
    runner.fit()
    shown = stream.getvalue()
    for part in ("tiny", "20/20", "loss", "rows/s", "temperature", "route entropy"):
        assert part in shown


@pytest.mark.parametrize("stream", [io.StringIO(), _Terminal()])
def test_grid_progress(stream: io.StringIO, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with GridProgress(stream=stream, every=0.0) as progress:
        progress.update(0, 4, "adaptation")
        progress.update(2, 4, "moe: colour")
        progress.update(4, 4, "moe: shape")
    assert "moe: shape" in stream.getvalue()
    assert "4/4" in stream.getvalue()


def test_grid_progress_can_be_off(capsys) -> None:
    with GridProgress(enabled=False) as progress:
        progress.update(0, 4, "adaptation")
    assert capsys.readouterr().err == ""


def test_wandb_is_not_imported_when_disabled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tiny.trainer(tmp_path, steps=3, callbacks=[WandbLog(tmp_path, "disabled")]).fit()
    assert not (tmp_path / "wandb").exists()


def test_wandb_offline_writes_records_and_no_secrets(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ecret" * 7)
    monkeypatch.setenv("OTHER_TOKEN", "5ecret-token")
    monkeypatch.setattr(sys, "argv", ["train", "--key=5ecret-argument"])
    run = tmp_path / "my-run"
    tiny.trainer(run, steps=6, callbacks=[WandbLog(run, config={"note": "kept-note"})]).fit()
    expected = (b"eval_loss", b"rows_per_s", b"kept-note", b"my-run-tiny")
    deadline = time.monotonic() + 20  # wandb's own process writes the last bytes after finish()
    while not all(part in _content(run / "wandb", ".wandb") for part in expected):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert b"5ecret" not in _content(run / "wandb", "")


def _content(folder: Path, suffix: str) -> bytes:
    files = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
    return b"".join(path.read_bytes() for path in files)


def test_wandb_that_cannot_start(tmp_path: Path, monkeypatch) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise wandb.Error("no API key")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(UserError, match=r"no API key.*logging\.wandb=offline"):
        WandbLog(tmp_path, "online").on_start(_start())


def test_callbacks_end_when_training_fails(caplog) -> None:
    caplog.set_level(logging.ERROR)
    ends: list[bool] = []

    class End(tiny.Losses):
        def on_end(self, finished: bool) -> None:
            ends.append(finished)

    class Fail(tiny.Losses):
        def on_step(self, step: int, loss: float | None) -> None:
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        tiny.trainer(None, callbacks=[Fail(), End()]).fit()
    tiny.trainer(None, steps=1, callbacks=[End()]).fit()
    assert ends == [False, True]
