"""Which tasks are trained, tuned on and unseen: one partition per split number."""

from __future__ import annotations

import random
from collections.abc import Sequence

from moe_tasks.tasks._synthetic.spec import Spec
from moe_tasks.tasks.base import Split

# category -> (unseen tasks for the test, for tuning)
QUOTAS = {
    "extraction": (4, 1),
    "classification": (3, 1),
    "closed-book knowledge": (3, 1),
    "multiple choice": (4, 1),
    "conditional generation": (5, 2),
}
_KNOWN = 2  # trained tasks of an unseen task's subcategory, at least
_TRIES = 1000


def assign(specs: Sequence[Spec], split: int) -> dict[Split, tuple[str, ...]]:
    """Role -> task names, a function of ``split`` alone.

    An unseen (test or dev) task is a known skill on new content: the tasks it composes are all
    trained, and so are at least two tasks of its subcategory; it is itself no part of another.
    """
    rng = random.Random(f"roles/{split}")
    test: list[str] = []
    dev: list[str] = []
    for category, (num_test, num_dev) in QUOTAS.items():
        members = [spec for spec in specs if spec.task.category == category]
        unseen = _choose(rng, members, num_test + num_dev)
        test += unseen[:num_test]
        dev += unseen[num_test:]
    train = [spec.name for spec in specs if spec.name not in {*test, *dev}]
    return {"train": tuple(sorted(train)), "dev": tuple(sorted(dev)), "test": tuple(sorted(test))}


def _choose(rng: random.Random, members: Sequence[Spec], count: int) -> list[str]:
    parts = {part for spec in members for part in spec.parts}
    candidates = [spec for spec in members if spec.can_be_unseen and spec.name not in parts]
    for _ in range(_TRIES):
        unseen = rng.sample(candidates, count)
        if all(_num_trained(spec.task.subcategory, members, unseen) >= _KNOWN for spec in unseen):
            return [spec.name for spec in unseen]
    raise ValueError(f"no {count} of {len(candidates)} tasks can be unseen together")


def _num_trained(subcategory: str, members: Sequence[Spec], unseen: Sequence[Spec]) -> int:
    group = [spec.name for spec in members if spec.task.subcategory == subcategory]
    return len(set(group) - {spec.name for spec in unseen})
