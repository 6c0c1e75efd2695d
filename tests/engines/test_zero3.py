"""Processes that share the weights of every layer (ZeRO 3) compute what one process does."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from tests.engines import launching
from tests.engines.test_expert_parallel import WORKER, check_equal

# Tasks of one batch lie in different processes, so that most experts are used by one of them only.
TWO = (
    "equality:bart-merge_st-1-3",
    "equality:bart-unused-1-3",
    "equality:t5-exact-1-3-checkpointing",
)
# Parts of batches, fewer rows than processes, frozen embeddings, leaves that are neither linear nor
# a known norm, experts in a part of the layer only, which the loss pushes apart.
MORE = (
    "equality:t5-merge_st-1-3-groups",
    "equality:bart-mix-1-3-few",
    "equality:bart-one-1-3-frozen",
    "equality:t5-generic-1-3",
    "equality:t5-ffn-1-3-apart",
)
ROUTES = ("merge_st", "exact", "one", "unused", "merge", "mix", "dense")


@pytest.mark.parametrize("case", TWO)
def test_weights_after_20_steps_are_those_of_one_process(tmp_path: Path, case: str) -> None:
    check_equal(launching.found(case, tmp_path, module=WORKER), case)


def test_a_run_continues_in_other_layouts(tmp_path: Path) -> None:
    later = ("continued:t5-1-2", "continued:t5-0-0")
    found = launching.run(["stopped:t5-1-3", *later], tmp_path, module=WORKER)
    assert found["stopped:t5-1-3"] == {"step": 8}
    for case in later:
        assert found[case]["losses"] < 1e-5, case
        assert found[case]["weights"] < 1e-5, case


@pytest.mark.parametrize(
    "other", [pytest.param("stopped:t5-1-1", marks=pytest.mark.stress), "stopped:t5-0-0"]
)
def test_a_run_of_another_layout_continues(tmp_path: Path, other: str) -> None:
    found = launching.run([other, "continued:t5-1-3"], tmp_path, module=WORKER)
    assert found[other] == {"step": 8}
    assert found["continued:t5-1-3"]["losses"] < 1e-5
    assert found["continued:t5-1-3"]["weights"] < 1e-5


def test_all_weights_are_evaluated_and_none_is_kept(tmp_path: Path) -> None:
    found = launching.found("evaluated:bart-1-3", tmp_path, module=WORKER)
    assert found["evaluations"] == 7
    assert found["losses"] < 1e-5
    assert found["held"] == 0


def test_a_layer_has_its_weights_only_while_it_computes(tmp_path: Path) -> None:
    held = launching.found("held:t5-checkpointing", tmp_path, module=WORKER)
    assert held["forward"] in ([1], [1, 2])  # recomputed, in backward
    assert max(held["backward"]) == 2  # of 4: what came before is let go right after


def test_a_process_without_memory_ends_all(tmp_path: Path) -> None:
    main, full = launching.start(["exhausted:bart"], tmp_path, 2, module=WORKER)
    _, error = full.communicate(timeout=120)
    assert full.returncode > 0
    assert "not even single rows fit into memory" in error
    since = time.monotonic()
    main.communicate(timeout=120)
    assert time.monotonic() - since < 60
    assert main.returncode > 0


@pytest.mark.stress
@pytest.mark.parametrize("world", [2, 4])
def test_all_routes(tmp_path: Path, world: int) -> None:
    cases = [f"equality:{f}-{r}-1-3" for f, r in itertools.product(("bart", "t5"), ROUTES)]
    cases += MORE
    found = launching.run(cases, tmp_path, world, module=WORKER, timeout=1800)
    for case in cases:
        check_equal(found[case], case)
