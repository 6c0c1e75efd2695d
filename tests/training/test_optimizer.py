"""Parameter groups and the schedule of their rates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tasks.training.optimizer import build_optimizer, rate_factor, rates
from tests.training import tiny


def test_linear_schedule_by_hand() -> None:
    factors = [rate_factor(step, 10, 4, "linear") for step in range(11)]
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    assert factors == pytest.approx(expected)


def test_constant_schedule_by_hand() -> None:
    assert [rate_factor(step, 5, 2, "constant") for step in range(5)] == [0.5, 1, 1, 1, 1]


@given(st.integers(1, 500), st.floats(0, 1))
def test_every_update_has_a_rate(steps: int, share: float) -> None:
    warmup = round(share * steps)
    for schedule in ("linear", "constant"):
        factors = [rate_factor(step, steps, warmup, schedule) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors)
        assert factors[:warmup] == sorted(factors[:warmup])
        assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_each_group_has_its_own_rate() -> None:
    config = tiny.config(
        learning_rate=1.0, router_learning_rate=2.0, task_vectors_learning_rate=3.0, warmup=0.5
    )
    assert rates(config, 4) == {"model": 0.5, "router": 1.0, "task_vectors": 1.5}


def test_groups_rates_and_decay() -> None:
    model = tiny.model("gumbel_st")
    optimizer = build_optimizer(model, tiny.config(weight_decay=0.3))
    seen = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(seen) == len(set(seen))
    assert set(seen) == set(model.parameters())
    assert {g["name"] for g in optimizer.param_groups} == {"model", "router", "task_vectors"}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_router_moves_at_its_own_rate() -> None:
    model = tiny.model("gumbel_st")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny.trainer(
        None, trained=model, steps=3, learning_rate=0.0, task_vectors_learning_rate=0.0
    ).fit()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("router.") for name in moved)


def test_frozen_parameters_are_left_out() -> None:
    model = tiny.model("gumbel_st")
    model.router.requires_grad_(False)
    optimizer = build_optimizer(model, tiny.config())
    assert {g["name"] for g in optimizer.param_groups} == {"model", "task_vectors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda groups, model: groups["model"].pop(), "trainable parameters in no group: "),
        (
            lambda groups, model: groups["router"].append(groups["model"][0]),
            "is in groups 'model' and 'router'",
        ),
        (
            lambda groups, model: groups["router"].append(torch.nn.Parameter(torch.ones(1))),
            "holds a parameter that the model does not name",
        ),
        (
            lambda groups, model: groups.update(other=[groups["model"].pop()]),
            "'other' has no learning rate",
        ),
    ],
)
def test_wrong_groups_are_refused(change, message: str) -> None:
    model = tiny.model()
    groups = model.parameter_groups()
    change(groups, model)
    model.parameter_groups = lambda: groups  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        build_optimizer(model, tiny.config())
