"""Properties of the batches that a sampler draws."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_tasks import config, registry
from moe_tasks.errors import UserError
from moe_tasks.tasks.sampling import (
    BatchSampler,
    ProportionalSampling,
    TemperatureSampling,
    UniformSampling,
    uniform,
)

GOLDEN_UNIFORM = [0.3006896058783903, 0.46110138727148825, 0.12142762988458994]
GOLDEN_BATCH = [("task 0", [1, 0, 2]), ("task 1", [100, 106, 105])]

sizes_of_tasks = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def _pools(sizes: list[int]) -> dict[str, range]:
    return {f"task {i}": range(100 * i, 100 * i + size) for i, size in enumerate(sizes)}


def _sampler(sizes: list[int], tasks: int = 2, rows: int = 3, seed: int = 0) -> BatchSampler:
    return UniformSampling(tasks, rows).build(_pools(sizes), seed)


@given(sizes_of_tasks, st.integers(1, 8), st.integers(1, 15), st.integers(0, 2**70))
def test_shape_of_a_batch(sizes: list[int], tasks: int, rows: int, seed: int) -> None:
    sampler, pools = _sampler(sizes, tasks, rows, seed), _pools(sizes)
    for _ in range(5):
        batch = sampler.next()
        names = [name for name, _ in batch]
        assert len(set(names)) == len(names) == min(tasks, len(sizes))
        assert names == [name for name in pools if name in names]
        for name, chosen in batch:
            assert len(chosen) == rows
            assert set(chosen) <= set(pools[name])
            assert all(type(row) is int for row in chosen)


@given(sizes_of_tasks, st.integers(1, 15), st.integers(0, 1000))
def test_every_row_once_per_epoch(sizes: list[int], rows: int, seed: int) -> None:
    sampler, pools = _sampler(sizes, 2, rows, seed), _pools(sizes)
    drawn: dict[str, list[int]] = {name: [] for name in pools}
    for _ in range(12):
        for name, chosen in sampler.next():
            drawn[name] += chosen
    assert sampler.drawn == {name: len(rows) for name, rows in drawn.items()}
    for name, pool in pools.items():
        for start in range(0, len(drawn[name]), len(pool)):
            epoch = drawn[name][start : start + len(pool)]
            assert len(set(epoch)) == len(epoch)
            if len(epoch) == len(pool):
                assert sorted(epoch) == list(pool)


@given(
    sizes_of_tasks,
    st.integers(1, 4),
    st.integers(1, 15),
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
)
def test_continued_batches_are_the_same(sizes, tasks, rows, cuts) -> None:
    whole, pieces = _sampler(sizes, tasks, rows), _sampler(sizes, tasks, rows)
    for cut in cuts:
        for _ in range(cut):
            assert pieces.next() == whole.next()
        state = json.loads(json.dumps(pieces.state_dict()))
        pieces = _sampler(sizes, tasks, rows)
        pieces.load_state_dict(state)
        assert pieces.state_dict() == whole.state_dict()


def test_epochs_are_shuffled_differently_and_seeds_differ() -> None:
    def epochs(seed: int) -> list[list[int]]:
        sampler = _sampler([30], 1, 30, seed)
        return [sampler.next()[0][1] for _ in range(3)]

    first = epochs(0)
    assert first == epochs(0)
    assert len({tuple(order) for order in [*first, *epochs(1), list(range(30))]}) == 7


def test_a_task_s_rows_do_not_depend_on_the_others() -> None:
    def rows_of(names: list[str]) -> list[int]:
        pools = {name: range(40) for name in names}
        sampler = UniformSampling(len(names), 4).build(pools, 5)
        return [row for _ in range(10) for row in dict(sampler.next())["b"]]

    assert rows_of(["b"]) == rows_of(["a", "b", "c"])


def test_stream_is_the_same_everywhere() -> None:
    """Golden numbers: a stored checkpoint must continue alike after any upgrade."""
    assert uniform(3, 7, "batch", 0).tolist() == GOLDEN_UNIFORM
    assert _sampler([5, 9, 4], 2, 3, seed=7).next() == GOLDEN_BATCH


def _shares(sampling: UniformSampling, sizes: list[int], draws: int = 6000) -> list[float]:
    sampler = sampling.build(_pools(sizes), 3)
    counts = Counter(name for _ in range(draws) for name, _ in sampler.next())
    return [counts[name] / draws for name in _pools(sizes)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (UniformSampling(1, 1), [1 / 3, 1 / 3, 1 / 3]),
        (ProportionalSampling(1, 1), [0.1, 0.3, 0.6]),
        (TemperatureSampling(1, 1, temperature=1.0), [0.1, 0.3, 0.6]),
        (TemperatureSampling(1, 1, temperature=2.0), [0.1930, 0.3343, 0.4727]),
        (TemperatureSampling(1, 1, temperature=1e6), [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_tasks_come_as_often_as_they_should(sampling, expected: list[float]) -> None:
    sizes = [10, 30, 60]
    given_weights = list(sampling.probabilities(dict(zip("abc", sizes, strict=True))).values())
    assert given_weights == pytest.approx(expected, abs=5e-4)
    assert _shares(sampling, sizes) == pytest.approx(expected, abs=0.02)


def test_drawing_without_replacement_is_successive() -> None:
    """P(task i in a batch of two) = p_i + sum over first picks j of p_j p_i / (1 - p_j)."""
    p = [0.1, 0.3, 0.6]
    expected = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    assert _shares(ProportionalSampling(2, 1), [10, 30, 60]) == pytest.approx(expected, abs=0.02)


def test_task_of_weight_zero_is_never_drawn() -> None:
    pools = {"a": range(3), "b": range(3), "c": []}
    sampler = BatchSampler(pools, {"a": 1.0, "b": 2.0, "c": 0.0}, 3, 2, 0)
    assert sampler.tasks_per_batch == 2
    assert {name for _ in range(50) for name, _ in sampler.next()} == {"a", "b"}


def test_pools_that_are_lists_of_any_rows() -> None:
    sampler = BatchSampler({"a": [7, 3, 11]}, {"a": 1.0}, 1, 3, 0)
    assert sorted(sampler.next()[0][1]) == [3, 7, 11]


@pytest.mark.parametrize(
    ("pools", "weights", "tasks", "error", "message"),
    [
        ({}, {}, 1, UserError, "no task to draw"),
        ({"a": [1]}, {"a": 0.0}, 1, UserError, "no task to draw"),
        ({"a": []}, {"a": 1.0}, 1, UserError, "no training rows for task 'a'"),
        ({"a": [1]}, {"b": 1.0}, 1, ValueError, "no rows or no weight"),
        ({"a": [1]}, {"a": -1.0}, 1, ValueError, "has weight -1.0"),
        ({"a": [1]}, {"a": float("nan")}, 1, ValueError, "has weight nan"),
        ({"a": [1]}, {"a": 1.0}, 0, ValueError, "at least 1"),
    ],
)
def test_impossible_samplers(pools, weights, tasks, error, message: str) -> None:
    with pytest.raises(error, match=message):
        BatchSampler(pools, weights, tasks, 1, 0)


def test_tasks_without_rows_are_named() -> None:
    with pytest.raises(UserError, match="no training rows for task 'b', 'c'"):
        ProportionalSampling().build({"a": [1], "b": [], "c": []}, 0)


def test_state_of_other_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="other tasks"):
        _sampler([1, 2]).load_state_dict(_sampler([1]).state_dict())


def test_fingerprint_tells_rows_weights_and_sizes_apart() -> None:
    def prints(sampling: UniformSampling, sizes: list[int], seed: int = 0) -> str:
        return json.dumps(sampling.build(_pools(sizes), seed).fingerprint())

    different = {
        prints(UniformSampling(1, 2), [3, 4]),
        prints(UniformSampling(2, 2), [3, 4]),
        prints(UniformSampling(1, 3), [3, 4]),
        prints(UniformSampling(1, 2), [3, 5]),
        prints(UniformSampling(1, 2), [3, 4], seed=1),
        prints(ProportionalSampling(1, 2), [3, 4]),
        prints(TemperatureSampling(1, 2), [3, 4]),
    }
    assert len(different) == 7
    assert prints(UniformSampling(1, 2), [3, 4]) == prints(UniformSampling(1, 2), [3, 4])


def test_parts_by_name() -> None:
    assert set(registry.names("sampling")) >= {"uniform", "proportional", "temperature"}
    values = {"name": "temperature", "temperature": 4, "tasks_per_batch": 3, "rows_per_task": 5}
    assert config.part("sampling", values) == TemperatureSampling(3, 5, 4.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "uniform", "tasks_per_batch": 0}, "sampling: tasks_per_batch is 0"),
        ({"name": "proportional", "rows_per_task": -2}, "sampling: rows_per_task is -2"),
        ({"name": "temperature", "temperature": 0.0}, "sampling: temperature is 0.0"),
        ({"name": "unifrom"}, "did you mean 'uniform'"),
        ({"name": "uniform", "temperature": 2.0}, "unknown key 'sampling.temperature'"),
    ],
)
def test_wrong_keys_are_named(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.part("sampling", values)


@settings(max_examples=30)
@given(st.integers(1, 2000), st.text(max_size=20))
def test_uniform_numbers_lie_inside_the_interval(count: int, key: str) -> None:
    numbers = uniform(count, key)
    assert len(numbers) == count
    assert ((numbers > 0) & (numbers < 1)).all()
