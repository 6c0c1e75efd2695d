"""Rows of a task: the gym's k-shot rule, five samples, one test set, and a pool."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice

from moe_tasks.errors import UserError
from moe_tasks.tasks._synthetic.spec import Spec
from moe_tasks.tasks.base import SPLITS, Example, Split

SAMPLES = ("100", "13", "21", "42", "87")
POOL = "pool"
TEST_ROWS = 100
_SPARE = 3  # few-shot rows are drawn from this many times their number
_ATTEMPTS = 4000

Row = tuple[str, Split, Example]  # sample, split, example
_Drawn = list[tuple[str, Example]]  # stratum, example


def rows(spec: Spec, seed: int, unseen: bool, train_rows: int | None) -> Iterator[Row]:
    """All rows of one task.

    No input of one row split occurs in another, over all samples together; so the train rows of
    one sample are never in the dev rows of another. ``train_rows`` changes nothing but the pool.

    Raises:
        UserError: the task has not so many different inputs.
    """
    source = _Source(spec, random.Random(f"rows/{seed}/{spec.name}"))
    strata: Mapping[Split, tuple[str, ...]] = dict.fromkeys(SPLITS, spec.strata)
    if unseen and spec.held_out:
        strata = spec.held_out
    test = source.take(TEST_ROWS, strata["test"])
    dev = source.take(_SPARE * spec.shots, strata["dev"])
    train = source.take(_SPARE * spec.shots, strata["train"])
    for sample in SAMPLES:
        rng = random.Random(f"sample/{seed}/{spec.name}/{sample}")
        shown: dict[Split, list[Example]] = {
            "train": _balanced(rng, train, spec.shots),
            "dev": _balanced(rng, dev, spec.shots),
            "test": [example for _, example in test],
        }
        for split, examples in shown.items():
            for example in examples:
                yield sample, split, example
    if train_rows is not None and not unseen:
        train += source.take(max(0, train_rows - len(train)), strata["train"])
        for _, example in train[:train_rows]:
            yield POOL, "train", example


class _Source:
    """Draws rows of a task, never two with the same key."""

    def __init__(self, spec: Spec, rng: random.Random) -> None:
        self._spec = spec
        self._rng = rng
        self._used: set[object] = set()

    def take(self, count: int, strata: Sequence[str]) -> _Drawn:
        order = list(strata)
        self._rng.shuffle(order)
        drawn = [(s, self._fresh(s)) for s in islice(cycle(order), count)]
        self._rng.shuffle(drawn)
        return drawn

    def _fresh(self, stratum: str) -> Example:
        for _ in range(_ATTEMPTS):
            item = self._spec.draw(self._rng, stratum)
            if item.key not in self._used:
                self._used.add(item.key)
                return self._spec.example(item)
        raise UserError(
            f"tasks.train_rows is too large: task {self._spec.name!r} has only about "
            f"{len(self._used)} different rows"
        )


def _balanced(rng: random.Random, drawn: _Drawn, count: int) -> list[Example]:
    """``count`` of the rows, strata as equal as can be."""
    queues: dict[str, list[Example]] = {}
    for stratum, example in drawn:
        queues.setdefault(stratum, []).append(example)
    for queue in queues.values():
        rng.shuffle(queue)
    order = list(queues)
    rng.shuffle(order)
    chosen = [queues[s].pop() for s in islice(cycle(order), count)]
    rng.shuffle(chosen)
    return chosen
