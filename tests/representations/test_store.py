"""Raw vectors are computed once, whoever asks, and survive being stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.representations.base import VectorContext
from moe_tasks.representations.computed import Representation
from moe_tasks.representations.finetuning import FineTuning
from moe_tasks.representations.fisher import FisherVectors
from moe_tasks.representations.store import RawStore
from moe_tasks.representations.text import TextVectors
from moe_tasks.training.signals import Interrupted
from tests.models import bart
from tests.representations.contexts import TASKS, context, texts

HOSTILE = ["low ../../x", "low /abs", "low " + "x" * 300, "low a\0b", "low é\n"]


@dataclass
class Counting(TextVectors):
    """Counts how often it computes; may raise a signal instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.calls = 0
        self.signal_at: int | None = None

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        self.calls += 1
        if self.calls == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().raw(context, inputs, outputs)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_second_start_computes_nothing(tmp_path: Path) -> None:
    first, second, nowhere = Counting(), Counting(), Counting()
    vectors = first.build(context(tmp_path)).fit(TASKS)
    assert torch.equal(vectors, second.build(context(tmp_path)).fit(TASKS))
    assert torch.equal(vectors, nowhere.build(context()).fit(TASKS))
    assert (first.calls, second.calls, nowhere.calls) == (6, 0, 6)
    assert len(files(tmp_path)) == 6  # no lock and nothing aside is left


def test_a_stopped_computation_restarts_where_it_was(tmp_path: Path) -> None:
    stopped, again = Counting(), Counting()
    stopped.signal_at = 4
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        stopped.build(context(tmp_path)).fit(TASKS)
    again.build(context(tmp_path)).fit(TASKS)
    assert (stopped.calls, again.calls) == (4, 2)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    vectors = Counting().build(context(tmp_path)).fit(TASKS)
    broken = files(tmp_path)
    broken[0].write_bytes(broken[0].read_bytes()[:50])
    broken[1].write_bytes(b"")
    again = Counting()
    assert torch.equal(vectors, again.build(context(tmp_path)).fit(TASKS))
    assert again.calls == 2


def test_whatever_changes_the_content_changes_the_file(tmp_path: Path) -> None:
    tuning = FineTuning(steps=1, learning_rate=1e-3)
    fisher = FisherVectors(finetuning=tuning)
    kinds: list[Representation] = [
        TextVectors(), TextVectors(examples=2), fisher, replace(fisher, rank=2),
        replace(fisher, finetuning=replace(tuning, steps=2)),
    ]  # fmt: skip
    other = bart()
    with torch.no_grad():
        other.model.shared.weight[5, 5] += 1e-3
    cut = replace(
        context(tmp_path), texts=lambda t, s: ([r[:2] for r in texts(t, s)[0]], texts(t, s)[1])
    )
    for kind in kinds:
        kind.build(context(tmp_path)).prepare([("low a", None)])
    assert len(files(tmp_path)) == len(kinds)
    for used in (context(tmp_path, other), context(tmp_path, seed=1), cut):
        before = len(files(tmp_path))
        kinds[2].build(used).prepare([("low a", None)])
        assert len(files(tmp_path)) == before + 1
    # What only the transformation depends on, and a name, changes nothing.
    before = len(files(tmp_path))
    for same in (
        TextVectors(whiten=1.0),
        TextVectors(learn=True),
        FisherVectors(finetuning=tuning, dim=3),
    ):
        same.build(context(tmp_path)).prepare([("low a", None)])
    assert len(files(tmp_path)) == before


def test_names_that_are_no_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    source = TextVectors().build(context(folder))
    source.fit(HOSTILE)
    source.place("low ../../y", "13")
    assert len(files(folder)) == len(files(tmp_path)) == len(HOSTILE) + 1


def _compute_slowly(folder: str, start: Any) -> None:
    def slow() -> Tensor:
        with (Path(folder) / "calls").open("a") as log:
            log.write("x")
        time.sleep(0.5)
        return torch.ones(3)

    start.wait()
    assert RawStore(Path(folder)).once({"key": 1}, slow).tolist() == [1, 1, 1]


def test_processes_do_not_compute_twice(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    start = processes.Event()
    workers = [
        processes.Process(target=_compute_slowly, args=(str(tmp_path), start)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        TextVectors().build(context(tmp_path / "file")).fit(TASKS)
