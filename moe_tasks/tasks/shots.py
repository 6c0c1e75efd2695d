"""The few-shot rule of the gym: k examples per class, or k in all, for train and as many for dev.

Rows are taken in the order of a hash of sample, task and text: a draw depends neither on the
order of the rows nor on the library's version, and one more row changes little of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from moe_tasks.tasks.base import Example

Shots = int | Literal["gym", "all"]

PER_CLASS = 16
IN_ALL = 32
HELD_OUT_SHARE = 0.2
MAX_HELD_OUT = 200


def few_shot(
    pool: Sequence[Example],
    dev_pool: Sequence[Example] | None,
    salt: str,
    shots: Shots,
    by_class: bool,
) -> tuple[list[Example], list[Example]]:
    """Disjoint train and dev examples of one sample; either is empty where rows are too few.

    Args:
        pool: different examples.
        dev_pool: where dev examples come from; from ``pool`` when None.
        salt: names of task and sample.
        shots: k. ``gym``: 16 by class, else 32. ``all``: every row, dev too; without
            ``dev_pool`` dev is a held-out part of ``pool`` (see ``hold_out``).
        by_class: k of each class (first accepted output) instead of k in all. A class with fewer
            than 2k rows is halved.
    """
    if shots == "all":
        return (list(pool), list(dev_pool)) if dev_pool else hold_out(pool, salt)
    k = shots if isinstance(shots, int) else PER_CLASS if by_class else IN_ALL
    train: list[Example] = []
    dev: list[Example] = []
    for group in _groups(pool, by_class):
        ordered = shuffled(group, salt)
        enough = len(ordered) if dev_pool is not None else (len(ordered) + 1) // 2
        size = min(k, enough)
        train += ordered[:size]
        dev += ordered[size : size + k] if dev_pool is None else []
    for group in _groups(dev_pool or (), by_class):
        dev += shuffled(group, salt)[:k]
    return train, dev


def hold_out(rows: Sequence[Example], salt: str) -> tuple[list[Example], list[Example]]:
    """(kept, held out): a fifth of the rows, at least one and at most 200, is held out."""
    size = min(MAX_HELD_OUT, max(1, int(len(rows) * HELD_OUT_SHARE)))
    ordered = shuffled(rows, salt)
    return ordered[size:], ordered[:size]


def shuffled(rows: Sequence[Example], salt: str) -> list[Example]:
    """The rows in the order that ``salt`` gives them."""
    key = hashlib.blake2b(salt.encode(), digest_size=16).digest()

    def rank(row: Example) -> bytes:
        text = "\0".join((row.input, *row.options)).encode()
        return hashlib.blake2b(text, key=key, digest_size=16).digest()

    return sorted(rows, key=rank)


def _groups(rows: Sequence[Example], by_class: bool) -> list[list[Example]]:
    groups: dict[str, list[Example]] = {}
    for row in rows:
        groups.setdefault(row.outputs[0] if by_class else "", []).append(row)
    return [groups[label] for label in sorted(groups)]
