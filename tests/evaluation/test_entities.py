"""Entity-level F1 against a slow count, and conlleval's rules in small."""

from __future__ import annotations

import random

import pytest

from moe_tasks.evaluation.entities import as_bio, entities
from moe_tasks.evaluation.metrics import score

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def slow_entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """Every stretch of words, asked whether it is an entity from its first to its last word."""
    found = []
    padded = ["O", *tags, "O"]
    for first in range(1, len(tags) + 1):
        for last in range(first, len(tags) + 1):
            own = padded[first : last + 1]
            kind = own[0][2:]
            begins = own[0][0] == "B" or (own[0][0] == "I" and padded[first - 1][2:] != kind)
            goes_on = all(tag == f"I-{kind}" for tag in own[1:])
            ends = padded[last + 1] != f"I-{kind}"
            if kind and begins and goes_on and ends:
                found.append((kind, first - 1, last))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_f1_against_a_slow_count(seed: int) -> None:
    draw = random.Random(seed)
    wanted = [[draw.choice(TAGS) for _ in range(draw.randint(1, 9))] for _ in range(30)]
    given = [[t if draw.random() < 0.7 else draw.choice(TAGS) for t in row] for row in wanted]
    for row in (*wanted, *given):
        assert sorted(entities(row)) == sorted(slow_entities(row))
    right = found = asked = 0
    for g, w in zip(given, wanted, strict=True):
        own, own_wanted = slow_entities(g), slow_entities(w)
        right += sum(one in own_wanted for one in own)
        found, asked = found + len(own), asked + len(own_wanted)
    precision, recall = right / found, right / asked
    references = [[" ".join(row)] for row in wanted]
    value = score("Entity-F1", [" ".join(row) for row in given], references)
    assert value == pytest.approx(2 * precision * recall / (precision + recall))


def test_bio_from_iob1() -> None:
    iob1 = ["I-PER", "I-PER", "B-PER", "O", "I-LOC", "I-PER"]
    assert as_bio(iob1) == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-PER"]
    assert as_bio(as_bio(iob1)) == as_bio(iob1)
    assert entities(iob1) == entities(as_bio(iob1))


def test_whole_entities_count() -> None:
    wanted = [["B-PER I-PER O"], ["O B-LOC"]]
    assert score("Entity-F1", ["B-PER I-PER O", "O B-LOC"], wanted) == 1
    assert score("Entity-F1", ["B-PER O O", "O B-LOC"], wanted) == 0.5  # half of a name is none
    assert score("Entity-F1", ["B-LOC I-LOC O", "O B-LOC"], wanted) == 0.5
    assert score("Entity-F1", ["B-PER I-PER", ""], wanted) == pytest.approx(2 / 3)  # cut inputs
    assert score("Entity-F1", ["O", "O"], [["O"], ["O"]]) == 0
