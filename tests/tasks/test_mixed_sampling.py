"""Batches of all tasks' rows together, and of task after task."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from moe_tasks import config
from moe_tasks.errors import UserError

POOLS = {"a": range(7), "b": range(10, 13), "c": range(20, 31)}  # 21 rows
ROWS = [row for rows in POOLS.values() for row in rows]
every_kind = pytest.mark.parametrize("name", ["mixed", "sequential"])


def sampler(name: str, seed: int = 0, rows: int = 4) -> Any:
    return config.part("sampling", {"name": name, "rows_per_batch": rows}).build(POOLS, seed)


def drawn(source: Any, count: int) -> list[list[tuple[str, list[int]]]]:
    return [source.next() for _ in range(count)]


def test_mixed_batches_are_full_and_use_each_row_once_per_epoch() -> None:
    batches = drawn(sampler("mixed"), 21)
    assert all(sum(len(rows) for _, rows in batch) == 4 for batch in batches)
    assert Counter(row for batch in batches for _, rows in batch for row in rows) == Counter(
        dict.fromkeys(ROWS, 4)
    )
    assert any(len(batch) > 1 for batch in batches)


def test_sequential_batches_have_one_task_each_in_order() -> None:
    batches = drawn(sampler("sequential"), 2 * (2 + 1 + 3))
    assert [[task for task, _ in batch] for batch in batches[:6]] == [
        ["a"], ["a"], ["b"], ["c"], ["c"], ["c"]
    ]  # fmt: skip
    assert [len(batch[0][1]) for batch in batches[:6]] == [4, 3, 3, 4, 4, 3]
    for epoch in (batches[:6], batches[6:]):
        assert sorted(row for batch in epoch for _, rows in batch for row in rows) == ROWS
    assert batches[:6] != batches[6:]


@every_kind
def test_rows_belong_to_their_task_and_are_counted(name: str) -> None:
    source = sampler(name)
    counts = Counter[str]()
    for batch in drawn(source, 17):
        assert [task for task, _ in batch] == sorted(task for task, _ in batch)
        for task, rows in batch:
            assert set(rows) <= set(POOLS[task])
            counts[task] += len(rows)
    assert source.drawn == dict(counts)


@every_kind
def test_continues_where_its_state_was_taken(name: str) -> None:
    source = sampler(name)
    drawn(source, 5)
    state, expected = source.state_dict(), drawn(source, 9)
    again = sampler(name)
    again.load_state_dict(state)
    assert drawn(again, 9) == expected
    with pytest.raises(ValueError, match="other tasks"):
        again.load_state_dict({**state, "drawn": {"a": 1}})


@every_kind
def test_a_seed_is_an_order(name: str) -> None:
    assert drawn(sampler(name), 6) == drawn(sampler(name), 6) != drawn(sampler(name, 1), 6)
    prints = [sampler(name).fingerprint(), sampler(name, 1).fingerprint()]
    assert prints[0] != prints[1]
    assert sampler("mixed").fingerprint() != sampler("sequential").fingerprint()


@every_kind
def test_mistakes(name: str) -> None:
    with pytest.raises(UserError, match="rows_per_batch is 0"):
        config.part("sampling", {"name": name, "rows_per_batch": 0})
    part = config.part("sampling", {"name": name})
    with pytest.raises(UserError, match="no training rows for task 'b'"):
        part.build({"a": [1], "b": []}, 0)
