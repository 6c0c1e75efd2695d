"""Several processes compute what one does."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.engines import launching


@pytest.mark.parametrize(
    ("case", "has_unused"),
    [
        ("bart-0", True), ("bart-1", True), ("bart-2", True), ("fewer-rows", True),
        ("t5-1", False), ("t5-2", False), ("sum", False), ("frozen", False),
    ],
)  # fmt: skip
def test_weights_after_20_steps_are_those_of_one_process(
    tmp_path: Path, case: str, has_unused: bool
) -> None:
    found = launching.found(case, tmp_path)
    assert found["weights"] < 1e-5
    assert found["states"] < 1e-4
    assert found["same states"]
    assert found["moved"] > 0.6
    if has_unused:  # an expert that is never used stays as it is
        assert found["unused moved"] == []
        assert found["unused states"] == []


def test_four_processes(tmp_path: Path) -> None:
    found = launching.found("bart-2", tmp_path, world=4)
    assert found["weights"] < 1e-5
    assert found["unused moved"] == []


@pytest.mark.parametrize("case", ["2-to-1", "1-to-2", "stage-0-to-2"])
def test_a_run_continues_in_another_layout(tmp_path: Path, case: str) -> None:
    assert launching.found(case, tmp_path)["weights"] < 1e-5


@pytest.mark.parametrize("case", ["evaluation-1", "evaluation-3"])
def test_processes_share_an_evaluation(tmp_path: Path, case: str) -> None:
    found = launching.found(case, tmp_path)
    assert found.pop("made") == [0, 1, 2, 3, 4, 5]
    assert found == {"same": True, "shared": True, "agree": True}


def test_a_signal_to_one_process_ends_an_evaluation(tmp_path: Path) -> None:
    stopped = [signal.SIGTERM, 6]
    found = launching.found("evaluation-stopped", tmp_path)
    assert found == {"stopped": [stopped, stopped], "evaluated": [6]}


def test_one_process_out_of_memory_makes_all_cut_their_batches(tmp_path: Path) -> None:
    found = launching.found("out-of-memory", tmp_path)
    assert found["splits"] > 1
    assert found["weights"] < 1e-5
