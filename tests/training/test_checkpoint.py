"""Checkpoints survive kills, damage and full disks."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_tasks.errors import UserError
from moe_tasks.training import checkpoint as module
from moe_tasks.training import files
from moe_tasks.training.checkpoint import CheckpointStore, Damaged
from tests.training import tiny

ROOT = Path(__file__).parents[2]


def _write_model(value: float):
    def write(folder: Path) -> None:
        (folder / "model.bin").write_bytes(bytes([int(value)]) * 2000)

    return write


def _save(store: CheckpointStore, step: int, best: int | None = None) -> Path:
    tensors = {"a": torch.full((3,), float(step))}
    return store.save(step, _write_model(step), tensors, {"step": step}, best_step=best)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints" / "tiny")
    _save(store, 1)
    _save(store, 2, best=2)
    return store


def test_what_was_saved_comes_back(store: CheckpointStore) -> None:
    found = store.find_resumable()
    assert found is not None
    assert (found.step, found.path.name, found.state()) == (2, "step-000002", {"step": 2})
    assert found.tensors()["a"].tolist() == [2, 2, 2]
    assert (found.path / "model.bin").read_bytes() == b"\2" * 2000
    for name in ("best", "last"):
        pointer = json.loads((store.folder / f"{name}.json").read_text())
        assert pointer == {"checkpoint": "step-000002", "step": 2}


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 7):
        _save(store, step, best=2 if step > 1 else None)
    assert store.steps() == [2, 5, 6]
    best = store.best()
    assert best is not None
    assert best.step == 2


def test_empty_folder_has_nothing_to_resume(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "none")
    assert store.find_resumable() is None
    assert store.best() is None


def _damage(file: Path, kind: str, chance: random.Random) -> None:
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind == "flip":
        position = chance.randrange(len(content))
        changed = bytearray(content)
        changed[position] ^= 1 << chance.randrange(8)
        file.write_bytes(bytes(changed))
    else:
        sizes = {"0 B": 0, "1 B": 1, "half": len(content) // 2, "all but 1 B": len(content) - 1}
        file.write_bytes(content[: sizes[kind]])


def _damage_and_find(store: CheckpointStore, name: str, kind: str, seed: int, caplog) -> None:
    original = store.path(2).with_name("original")
    shutil.copytree(store.path(2), original)
    _damage(store.path(2) / name, kind, random.Random(seed))
    caplog.clear()
    found = store.find_resumable()
    assert found is not None, (name, kind)
    assert found.step == 1, (name, kind)
    assert str(store.path(2) / name) in caplog.text
    shutil.rmtree(store.folder / ".damaged-step-000002")
    original.rename(store.path(2))


FILES = ("model.bin", "trainer.safetensors", "trainer.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_named(store: CheckpointStore, name: str, caplog) -> None:
    for kind in ("missing", "0 B", "1 B", "half", "all but 1 B"):
        _damage_and_find(store, name, kind, 0, caplog)
    for seed in range(25):
        _damage_and_find(store, name, "flip", seed, caplog)


@pytest.mark.stress
def test_every_bit_of_the_manifest_matters(store: CheckpointStore) -> None:
    file = store.path(2) / "manifest.json"
    content = file.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(changed))
        with pytest.raises(Damaged):
            store.verify(2)


def test_nothing_intact_is_an_error_that_names_all(store: CheckpointStore) -> None:
    (store.path(1) / "model.bin").unlink()
    (store.path(2) / "trainer.json").write_text("{}")
    with pytest.raises(UserError, match=r"(?s)step-000002/trainer\.json.*step-000001/model\.bin"):
        store.find_resumable()
    assert store.steps() == [1, 2]  # left for whoever wants to look


def test_damaged_best_is_an_error(store: CheckpointStore) -> None:
    (store.path(2) / "model.bin").unlink()
    with pytest.raises(UserError, match=r"best checkpoint is damaged.*model\.bin is missing"):
        store.best()
    (store.folder / "best.json").write_text('{"step": ')
    with pytest.raises(UserError, match=r"best\.json is damaged"):
        store.best()


def test_training_falls_back_to_the_same_result(tmp_path: Path, caplog) -> None:
    whole = tiny.trainer(tmp_path / "whole")
    whole.fit()
    stopped = tiny.trainer(tmp_path / "cut", callbacks=[tiny.StopAt(13)])
    with pytest.raises(BaseException, match="SIGTERM after step 13"):
        stopped.fit()
    newest = tmp_path / "cut/checkpoints/tiny/step-000013"
    _damage(newest / "trainer.safetensors", "flip", random.Random(0))
    continued = tiny.trainer(tmp_path / "cut")
    continued.fit(resume=True)
    assert f"{newest / 'trainer.safetensors'} has changed" in caplog.text
    assert "continuing from step-000012 instead" in caplog.text
    tiny.assert_same(tiny.everything(whole), tiny.everything(continued))
    assert tiny.log_lines(tmp_path / "whole") == tiny.log_lines(tmp_path / "cut")


def test_lost_best_checkpoint_is_set_anew(tmp_path: Path, caplog) -> None:
    losses = iter([1.0, 5.0, 6.0])

    def evaluate(_):
        return {"loss": next(losses)}

    stopped = tiny.trainer(tmp_path, evaluate=evaluate, callbacks=[tiny.StopAt(13)])
    with pytest.raises(BaseException, match="SIGTERM"):
        stopped.fit()
    assert stopped.state.best_step == 6
    (tmp_path / "checkpoints/tiny/step-000006/model.safetensors").unlink()
    continued = tiny.trainer(tmp_path, evaluate=lambda _: {"loss": 7.0})
    result = continued.fit(resume=True)
    assert "the best checkpoint is lost" in caplog.text
    assert (result.best_step, result.best_metric) == (18, 7.0)


class _Killed(BaseException):
    """Stands for a kill: nothing of the writer's own clean-up may be needed."""


def _count_writes(monkeypatch, die_at: int | None) -> list[str]:
    """Counts every operation by which a save changes the disk; dies just before one of them."""
    calls: list[str] = []

    def watch(owner, name: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments, **options):
            if die_at is not None and len(calls) >= die_at:
                raise _Killed
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    for owner, names in (
        (os, ("replace", "fsync", "unlink", "rmdir")),
        (Path, ("mkdir", "write_text", "unlink", "write_bytes")),
        (module, ("save_file",)),
    ):
        for name in names:
            watch(owner, name)
    return calls


def test_kill_before_each_operation_of_a_save(tmp_path: Path, monkeypatch) -> None:
    """Dies at each point of a save that also replaces a checkpoint and prunes another."""

    def prepare(folder: Path) -> CheckpointStore:
        store = CheckpointStore(folder, keep=2)
        for step in (1, 2, 3):
            _save(store, step, best=1)
        return store

    reference = prepare(tmp_path / "count")
    with monkeypatch.context() as patch:
        calls = _count_writes(patch, None)
        _save(reference, 3, best=2)
        total = len(calls)
    assert total > 20
    for die_at in range(total):
        store = prepare(tmp_path / str(die_at))
        with monkeypatch.context() as patch:
            _count_writes(patch, die_at)
            with pytest.raises(_Killed):
                _save(store, 3, best=2)
        found = CheckpointStore(store.folder).find_resumable()
        assert found is not None
        assert found.step == 3  # replaced or not, the newest step is never lost
        assert not [e for e in store.folder.iterdir() if e.name.startswith(".")]
        _save(store, 4, best=3)
        assert store.verify(4).step == 4


def test_kill_9_while_training_saves_every_step(tmp_path: Path) -> None:
    _kill_repeatedly(tmp_path, kills=8)


@pytest.mark.stress
@pytest.mark.timeout(3000)
def test_kill_9_at_200_moments(tmp_path: Path) -> None:
    _kill_repeatedly(tmp_path, kills=200)


def _kill_repeatedly(folder: Path, kills: int) -> None:
    """Each kill loses at most one save interval, here a step; the end is as if without kills."""
    chance = random.Random(5)
    steps = 12 * kills
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.tiny"])
    reached = 0
    for _ in range(kills):
        receiver, sender = context.Pipe(duplex=False)
        life = context.Process(target=tiny.live, args=(folder, steps, sender), daemon=True)
        life.start()
        sender.close()
        first = seen = receiver.recv()
        assert first in (reached, reached + 1), "more than one save interval was lost"
        for _ in range(chance.randrange(8)):
            seen = receiver.recv()
        if chance.random() < 0.8:  # else at once: the save of the step has just begun
            time.sleep(chance.random() * 0.02)
        life.kill()
        life.join()
        assert life.exitcode == -signal.SIGKILL
        reached = max([seen, *_rest(receiver)])
    pieces = tiny.trainer(folder, steps=steps)
    pieces.fit(resume=True)
    whole = tiny.trainer(folder / "whole", steps=steps)
    whole.fit()
    tiny.assert_same(tiny.everything(whole), tiny.everything(pieces))
    assert tiny.log_lines(folder) == tiny.log_lines(folder / "whole")


def _rest(receiver: Any) -> list[int]:
    steps = []
    with contextlib.suppress(EOFError, OSError):
        while True:
            steps.append(receiver.recv())
    return steps


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_full_disk_leaves_the_previous_checkpoint(store, monkeypatch, code: int) -> None:
    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(module, "sync", fail)
        with pytest.raises(UserError) as caught:
            _save(store, 3)
    assert str(store.path(3)) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert "step-000002 is intact" in str(caught.value)
    assert store.verify(2).step == 2
    assert not [e for e in store.folder.iterdir() if e.name.startswith(".")]
    assert _save(store, 3).is_dir()


def test_real_write_limit_ends_with_message_and_code(tmp_path: Path) -> None:
    """The kernel refuses to write more than 20 kB per file: model or optimizer do not fit."""
    program = (
        "import resource, runpy, sys\n"
        "import tests.training.tiny\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"sys.argv = ['tiny', {str(tmp_path)!r}, '3']\n"
        "sys.exit(tests.training.tiny.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: cannot write checkpoint" in done.stderr
    assert str(tmp_path / "checkpoints/tiny/step-000003") in done.stderr
    assert "Traceback" not in done.stderr
    assert CheckpointStore(tmp_path / "checkpoints/tiny").steps() == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write checkpoint .*there is no earlier one"):
        tiny.trainer(tmp_path, steps=1).fit()


def test_text_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "last.json"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.json"]
