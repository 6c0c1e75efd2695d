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


@pytest.mark.parametrize("case", TWO)
def test_weights_after_20_steps_are_those_of_one_process(tmp_path: Path, case: str) -> None:
    found = launching.found(case, tmp_path, module=WORKER)
    check_equal(found, case)
    assert found["own experts"] == 2


@pytest.mark.parametrize("case", ["equality:bart-merge_st-2-2", "equality:t5-unused-4-1"])
def test_four_processes(tmp_path: Path, case: str) -> None:
    found = launching.found(case, tmp_path, world=4, module=WORKER)
    check_equal(found, case)
    assert found["own experts"] == 4 // int(case.split("-")[2])


def test_a_run_of_four_continues_in_other_layouts(tmp_path: Path) -> None:
    stopped = launching.found("stopped:t5-4-2", tmp_path, world=4, module=WORKER)
    assert stopped == {"step": 8}
    later = ("continued:t5-1-1", "continued:t5-0-0", "continued:t5-2-2")
    found = launching.run(later, tmp_path, module=WORKER)
    for case in later:
        assert found[case]["losses"] < 1e-5, case
        assert found[case]["weights"] < 1e-5, case


def test_probe_takes_the_same_rows_as_without(tmp_path: Path) -> None:
    assert launching.found("probing:t5", tmp_path, module=WORKER)["weights"] < 1e-5


def test_the_main_process_evaluates_all_experts_and_keeps_its_own(tmp_path: Path) -> None:
    found = launching.found("evaluated:bart-2-2", tmp_path, module=WORKER)
    assert found["evaluations"] == 7
    assert found["losses"] < 1e-5
    assert found["held"] == 0.5


def test_models_that_cannot_be_spread(tmp_path: Path) -> None:
    messages = {
        "layerdrop": "encoder_layerdrop=0.1.*engine.expert_parallel=1",
        "divided layerdrop": "encoder_layerdrop=0.1.*engine.zero_stage=1",
        "freeze": "'training.freeze' treats the experts of a layer differently",
        "soft": "selection.mode=mix computes every row with every expert",
    }
    found = launching.found("refused", tmp_path, module=WORKER)
    assert found.keys() == messages.keys()
    for name, message in messages.items():
        assert re.search(message, found[name]), name


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
