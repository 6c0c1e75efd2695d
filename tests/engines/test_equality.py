"""Several processes compute what one does."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.engines import launching

TOGETHER = ("bart-0", "bart-1", "bart-2", "t5-1", "t5-2", "fewer-rows", "sum", "frozen")
EVALUATED = ("evaluation-1", "evaluation-3")
CONTINUED = ("2-to-1", "1-to-2", "stage-0-to-2")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = (*TOGETHER, *CONTINUED, *EVALUATED, "evaluation-stopped", "out-of-memory")
    return launching.run_once("equality", cases, tmp_path_factory)[1]


@pytest.mark.parametrize("case", TOGETHER)
def test_weights_after_20_steps_are_those_of_one_process(two: dict[str, Any], case: str) -> None:
    found = two[case]
    assert found["weights"] < 1e-5
    assert found["states"] < 1e-4
    assert found["same states"]
    assert found["moved"] > 0.6


@pytest.mark.parametrize("case", ["bart-0", "bart-1", "bart-2", "fewer-rows"])
def test_an_expert_never_used_stays_as_it_is(two: dict[str, Any], case: str) -> None:
    assert two[case]["unused moved"] == []
    assert two[case]["unused states"] == []


@pytest.mark.parametrize("case", CONTINUED)
def test_a_run_continues_in_another_layout(two: dict[str, Any], case: str) -> None:
    assert two[case]["weights"] < 1e-5


@pytest.mark.parametrize("case", EVALUATED)
def test_processes_share_an_evaluation(two: dict[str, Any], case: str) -> None:
    assert two[case].pop("made") == [0, 1, 2, 3, 4, 5]
    assert two[case] == {"same": True, "shared": True, "agree": True}


def test_a_signal_to_one_process_ends_an_evaluation(two: dict[str, Any]) -> None:
    stopped = [signal.SIGTERM, 6]
    assert two["evaluation-stopped"] == {"stopped": [stopped, stopped], "evaluated": [6]}


def test_one_process_out_of_memory_makes_all_cut_their_batches(two: dict[str, Any]) -> None:
    assert two["out-of-memory"]["splits"] > 1
    assert two["out-of-memory"]["weights"] < 1e-5


def test_four_processes(tmp_path) -> None:
    found = launching.run(["bart-2"], tmp_path, world=4)["bart-2"]
    assert found["weights"] < 1e-5
    assert found["unused moved"] == []
