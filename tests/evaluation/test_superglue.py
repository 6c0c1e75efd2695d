"""SuperGLUE's scores against scikit-learn and slow oracles."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import accuracy_score, f1_score

from moe_tasks.errors import UserError
from moe_tasks.evaluation.glue import average
from moe_tasks.evaluation.metrics import score
from moe_tasks.evaluation.superglue import question_match, scores

NLI = ("entailment", "contradiction", "neutral")


def drawn(labels: tuple[str, ...], seed: int, rows: int = 40) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    wanted = [draw.choice(labels) for _ in range(rows)]
    given = [w if draw.random() < 0.6 else draw.choice(labels) for w in wanted]
    return given, wanted


@pytest.mark.parametrize("seed", range(5))
def test_labels_against_scikit_learn(seed: int) -> None:
    given, wanted = drawn(NLI, seed)
    references = [[label] for label in wanted]
    f1, accuracy = f1_score(wanted, given, average="macro"), accuracy_score(wanted, given)
    found = scores("cb", given, references)
    assert found == {"f1": pytest.approx(f1), "accuracy": pytest.approx(accuracy)}
    assert score("Macro-F1-and-ACC", given, references) == pytest.approx((f1 + accuracy) / 2)
    for task in ("boolq", "copa", "rte", "wic", "wsc"):
        assert scores(task, given, references) == {"accuracy": pytest.approx(accuracy)}


@pytest.mark.parametrize("seed", range(5))
def test_multirc(seed: int) -> None:
    given, wanted = drawn(("0", "1"), seed)
    groups = [f"{row // 8}/{row % 8 // 3}" for row in range(40)]
    random.Random(seed).shuffle(groups)  # rows of a question need not lie together
    questions = {g: [i for i in range(40) if groups[i] == g] for g in groups}
    whole = [all(given[i] == wanted[i] for i in rows) for rows in questions.values()]
    found = scores("multirc", given, [[label] for label in wanted], groups)
    assert found["f1a"] == pytest.approx(
        f1_score([int(w) for w in wanted], [int(g) for g in given])
    )
    assert found["em"] == pytest.approx(sum(whole) / len(whole))
    assert question_match(wanted, [[label] for label in wanted], groups) == 1
    with pytest.raises(UserError, match="multirc: exact match needs the question of each row"):
        scores("multirc", given, [[label] for label in wanted])


def test_record_takes_the_best_answer() -> None:
    references = [["Bob Ray", "Ray"], ["Ann"], ["the Nile"]]
    found = scores("record", ["ray", "Ann Lee", "Nile!"], references)
    assert found == {"em": pytest.approx(2 / 3), "f1": pytest.approx((1 + 2 / 3 + 1) / 3)}
    mean = score("QA-F1-and-EM", ["ray", "Ann Lee", "Nile!"], references)
    assert mean == pytest.approx(sum(found.values()) / 2)


def test_the_average_weighs_tasks_not_scores() -> None:
    given = {"cb": {"f1": 0.5, "accuracy": 0.7}, "boolq": {"accuracy": 0.8}}
    assert average(given) == pytest.approx((0.6 + 0.8) / 2)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="no task 'recrod' in SuperGLUE; did you mean 'record'"):
        scores("recrod", ["a"], [["a"]])
