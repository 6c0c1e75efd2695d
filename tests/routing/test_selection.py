"""Selection mathematics, temperature schedules and route plans."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_tasks import registry
from moe_tasks.errors import UserError
from moe_tasks.routing.plan import RoutePlan
from moe_tasks.routing.selection import (
    Annealing,
    Average,
    Gumbel,
    GumbelStraightThrough,
    RandomPerRow,
    RandomPerTask,
    Softmax,
)

LOGITS = torch.tensor([[[1.0, 2.0, 0.0], [0.5, 0.5, 3.0]]])  # [1 layer, 2 tasks, 3 experts]


def test_published_temperature_schedule() -> None:
    schedule = Annealing(start=2.0, end=0.1, rate=3e-4)
    assert schedule.at(0) == 2.0
    assert schedule.at(1000) == pytest.approx(2.0 * math.exp(-0.3))
    assert schedule.at(30_000) == 0.1


def test_schedule_over_a_training_ends_at_its_last_step() -> None:
    schedule = Annealing(start=2.0, end=0.5, rate=None).over(600)
    assert schedule.at(0) == 2.0
    assert schedule.at(300) == pytest.approx(1.0)
    assert schedule.at(600) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="over"):
        Annealing(rate=None).at(1)


@pytest.mark.parametrize("bad", [{"start": 0.0}, {"end": -1.0}])
def test_temperatures_must_be_positive(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        Annealing(**bad)


def test_softmax_uses_its_temperature() -> None:
    weights = Softmax(Annealing(2.0, 2.0, 0.0))(LOGITS, step=5, training=True)
    expected = torch.tensor([math.exp(0.5), math.exp(1.0), 1.0])
    torch.testing.assert_close(weights[0, 0], expected / expected.sum())


def test_average_ignores_logits() -> None:
    assert torch.equal(Average()(LOGITS, step=0, training=True), torch.full_like(LOGITS, 1 / 3))


def test_gumbel_st_is_one_hot_and_noiseless_at_evaluation() -> None:
    selection = GumbelStraightThrough()
    weights = selection(LOGITS, step=0, training=False)
    assert weights.tolist() == [[[0, 1, 0], [0, 0, 1]]]
    for seed in range(20):
        torch.manual_seed(seed)
        drawn = selection(LOGITS, step=0, training=True)
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(drawn.sum(-1), torch.ones(1, 2))


def test_gumbel_max_draws_from_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[[1.0, 0.0, -1.0]]]).expand(1, 20_000, 3)
    drawn = GumbelStraightThrough()(logits, step=0, training=True)
    expected = torch.tensor([1.0, 0.0, -1.0]).softmax(-1)
    torch.testing.assert_close(drawn.mean((0, 1)), expected, atol=0.012, rtol=0)


def test_straight_through_gradient_is_that_of_the_soft_weights() -> None:
    temperature = 1.7
    selection = GumbelStraightThrough(Annealing(temperature, temperature, 0.0))
    target = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(1))
    logits = LOGITS.clone().requires_grad_()
    torch.manual_seed(3)
    (selection(logits, step=0, training=True) * target).sum().backward()
    torch.manual_seed(3)
    uniform = torch.rand_like(LOGITS).clamp_(1e-10, 1 - 1e-7)
    plain = LOGITS.clone().requires_grad_()
    soft = ((plain - torch.log(-torch.log(uniform))) / temperature).softmax(-1)
    (soft * target).sum().backward()
    torch.testing.assert_close(logits.grad, plain.grad)


def test_soft_gumbel_noise_is_gumbel_distributed_and_absent_at_evaluation() -> None:
    selection = Gumbel(Annealing(1.0, 1.0, 0.0))
    assert torch.equal(selection(LOGITS, step=0, training=False), (LOGITS / 1.0).softmax(-1))
    many = LOGITS[:, :1].expand(1, 20_000, 3)
    torch.manual_seed(0)
    drawn = selection(many, step=0, training=True)
    torch.testing.assert_close(drawn.sum(-1), torch.ones(1, 20_000))
    # The Gumbel-max property: the largest entry is distributed as the softmax.
    shares = torch.nn.functional.one_hot(drawn.argmax(-1), 3).float().mean((0, 1))
    torch.testing.assert_close(shares, LOGITS[0, 0].softmax(-1), atol=0.015, rtol=0)


@pytest.mark.parametrize("selection", [GumbelStraightThrough, Softmax, Gumbel])
def test_exploration_replaces_a_share_of_the_routes_in_training_only(selection: type) -> None:
    logits = (torch.tensor([9.0, 0.0, 0.0]) * 9).expand(4, 5_000, 3)  # 4 layers, one like another
    schedule = Annealing(0.1, 0.1, 0.0)
    torch.manual_seed(0)
    weights = selection(schedule, exploration=0.3)(logits, step=0, training=True)
    elsewhere = (weights[..., 0] == 0).float().mean(-1)
    torch.testing.assert_close(elsewhere, torch.full((4,), 0.2), atol=0.03, rtol=0)  # 0.3 * 2/3
    assert torch.equal(weights.sum(-1), torch.ones(4, 5_000))
    still = selection(schedule, exploration=0.3)(logits, step=0, training=False)
    assert (still[..., 0] > 0.99).all()


def test_random_routes() -> None:
    logits = torch.zeros(2, 300, 3)
    per_row = RandomPerRow()
    torch.manual_seed(0)
    drawn = per_row(logits, step=0, training=True)
    assert (drawn.sum(1) > 60).all()  # every expert of every layer, about 100 of 300
    assert not torch.equal(drawn, per_row(logits, step=0, training=True))
    fixed = per_row(logits, step=0, training=False)
    assert torch.equal(fixed, per_row(logits[:, :1], step=9, training=False).expand_as(fixed))
    for n in (1, 2, 3):
        routes = RandomPerTask(n=n).fixed_routes(4, 200, 3, seed=5)
        assert routes is not None
        assert ((routes > 0).sum(-1) == n).all()
        torch.testing.assert_close(routes.sum(-1), torch.ones(4, 200))
        again = RandomPerTask(n=n).fixed_routes(4, 200, 3, seed=5)
        assert again is not None
        assert torch.equal(routes, again)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Softmax(mode="select"), "'mode' is 'select'; valid: merge, mix"),  # type: ignore[arg-type]
        (lambda: GumbelStraightThrough(gradient="guess"), "'gradient' is 'guess'"),  # type: ignore[arg-type]
        (lambda: Gumbel(noise="batch"), "'noise' is 'batch'; valid: task, row"),  # type: ignore[arg-type]
        (lambda: Softmax(exploration=1.5), "from 0 to 1"),
        (lambda: RandomPerTask(n=0), "'n' is 0"),
        (lambda: RandomPerTask(n=4).fixed_routes(1, 1, 3, 0), "'selection.n' is 4, more than"),
    ],
)
def test_bad_keys_are_named(build, message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        build()


@pytest.mark.parametrize("name", registry.names("router"))
def test_routers_give_logits_per_layer_task_and_expert(name: str) -> None:
    router = registry.lookup("router", name)(12, 4, 3, 8).eval()
    vectors = torch.randn(5, 12)
    logits = router(vectors)
    assert logits.shape == (4, 5, 3)
    torch.testing.assert_close(router(vectors[2:3])[:, 0], logits[:, 2])  # tasks do not mix


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from(["select", "merge"]),
)
def test_plans_group_rows_and_put_them_back(rows: list[int], m: int, mode: str) -> None:
    known = sorted(set(rows))
    places = [known.index(row) for row in rows]
    weights = torch.rand(2, len(known), m).softmax(-1)
    plan = RoutePlan.build(weights, places, mode)  # type: ignore[arg-type]
    x = torch.arange(len(rows), dtype=torch.float32)[:, None]
    for index, layer in enumerate(plan.layers):
        grouped = layer.gather(x)
        assert torch.equal(layer.scatter(grouped), x)
        assert sum(s.stop - s.start for s in layer.segments) == len(rows)
        keys = [s.key for s in layer.segments]
        assert keys == sorted(set(keys))  # one pass per expert in use
        assert sum(block.count for block in layer.blocks) == len(keys)
        for segment in layer.segments:
            for value in grouped[segment.start : segment.stop, 0].int().tolist():
                task = places[value]
                expert = int(weights[index, task].argmax())
                assert segment.key == (expert if mode == "select" else task)
        for segment in layer.task_segments:
            members = grouped[segment.start : segment.stop, 0].int().tolist()
            assert {places[v] for v in members} == {segment.key}


def test_beams_repeat_rows_in_place() -> None:
    plan = RoutePlan.build(torch.rand(1, 2, 3), [1, 0], "select")
    assert plan.repeat_rows(2).row_task == (1, 1, 0, 0)
