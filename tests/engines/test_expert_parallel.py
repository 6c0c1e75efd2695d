"""Processes that share experts compute what one process does."""

from __future__ import annotations

import itertools
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engines import launching

WORKER = "tests.engines.experts_worker"
ROUTES = ("merge_st", "exact", "one", "unused")
# Of two processes, in the normal suite: each kind of route, both families, both stages; beyond the
# figures: recomputed activations, frozen embeddings, experts in a part of the layer only.
TWO = (
    "equality:bart-merge_st-2-2",
    "equality:bart-unused-2-1",
    "equality:t5-exact-2-1",
    "equality:bart-exact-2-1-checkpointing",
    "equality:bart-one-2-1-frozen",
    "equality:bart-ffn-2-2",
)
# Parts of batches, fewer rows than processes, leaves that are neither linear nor a known norm.
MORE = (
    "equality:t5-merge_st-2-2-groups",
    "equality:bart-merge_st-2-1-few",
    "equality:t5-generic-2-1",
)
OTHERS = ("probing:t5", "evaluated:bart-2-2", "refused")
FOUR = ("equality:bart-merge_st-2-2", "equality:t5-unused-4-1", "stopped:t5-4-2")
LATER = ("continued:t5-1-1", "continued:t5-0-0", "continued:t5-2-2")


def _cases(sizes: tuple[int, ...]) -> list[str]:
    product = itertools.product(("bart", "t5"), ROUTES, sizes, (1, 2))
    return [f"equality:{f}-{r}-{size}-{stage}" for f, r, size, stage in product]


def check_equal(found: dict[str, Any], case: str) -> None:
    assert found["weights"] < 1e-5, case
    assert found["states"] < 1e-4, case
    assert found["same states"], case
    assert found["moved"] > 0.25, case  # a quarter of the experts, where one serves all
    assert (found["sent"] > 0) == (int(case.split("-")[2]) > 1), case
    if "-unused-" in case or "-one-" in case:
        assert found["unused moved"] == 0, case


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launching.run_once("spread", (*TWO, *OTHERS), tmp_path_factory, module=WORKER)[1]


@pytest.fixture(scope="module")
def four_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return launching.run_once("spread-4", FOUR, tmp_path_factory, world=4, module=WORKER)


@pytest.fixture(scope="module")
def folder(four_and_folder: tuple[Path, dict[str, Any]]) -> Path:
    return four_and_folder[0]


@pytest.fixture(scope="module")
def four(four_and_folder: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return four_and_folder[1]


@pytest.mark.parametrize("case", TWO)
def test_weights_after_20_steps_are_those_of_one_process(two: dict[str, Any], case: str) -> None:
    check_equal(two[case], case)
    assert two[case]["own experts"] == 2


def test_four_processes(four: dict[str, Any]) -> None:
    for case in FOUR[:2]:
        check_equal(four[case], case)
        assert four[case]["own experts"] == 4 // int(case.split("-")[2])


def test_a_run_of_four_continues_in_other_layouts(four: dict[str, Any], folder: Path) -> None:
    assert four["stopped:t5-4-2"] == {"step": 8}
    found = launching.run(LATER, folder, module=WORKER)
    for case in LATER:
        assert found[case]["losses"] < 1e-5, case
        assert found[case]["weights"] < 1e-5, case


def test_probe_takes_the_same_rows_as_without(two: dict[str, Any]) -> None:
    assert two["probing:t5"]["weights"] < 1e-5


def test_the_main_process_evaluates_all_experts_and_keeps_its_own(two: dict[str, Any]) -> None:
    found = two["evaluated:bart-2-2"]
    assert found["evaluations"] == 7
    assert found["losses"] < 1e-5
    assert found["held"] == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layerdrop", "encoder_layerdrop=0.1.*engine.expert_parallel=1"),
        ("divided layerdrop", "encoder_layerdrop=0.1.*engine.zero_stage=1"),
        ("freeze", "'training.freeze' treats the experts of a layer differently"),
        ("soft", "selection.mode=mix computes every row with every expert"),
    ],
)
def test_models_that_cannot_be_spread(two: dict[str, Any], name: str, message: str) -> None:
    assert re.search(message, two["refused"][name])


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.stress)])
def test_a_killed_process_ends_the_others(tmp_path: Path, world: int) -> None:
    main, killed, *others = launching.start(["killed:bart"], tmp_path, world, module=WORKER)
    _, of_killed = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, of_killed
    since = time.monotonic()
    errors = [process.communicate(timeout=120)[1] for process in (main, *others)]
    assert time.monotonic() - since < 60
    assert all(process.returncode > 0 for process in (main, *others))
    assert any("lost rank 1" in error for error in errors)


@pytest.mark.stress
@pytest.mark.parametrize(("world", "sizes"), [(2, (1, 2)), (4, (2, 4))])
def test_all_layouts(tmp_path: Path, world: int, sizes: tuple[int, ...]) -> None:
    cases = _cases(sizes)
    cases += MORE if world == 2 else ()
    found = launching.run(cases, tmp_path, world, module=WORKER, timeout=1800)
    for case in cases:
        check_equal(found[case], case)
