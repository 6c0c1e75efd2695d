"""Which embedded tasks are unseen, and that each of them is a known skill on new content."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations

import pytest

from moe_tasks.tasks._synthetic.spec import Item, Spec
from moe_tasks.tasks.base import SPLITS, Split, TaskCollection
from moe_tasks.tasks.synthetic import POOL, SyntheticTasks, all_specs

SEED, SPLIT = 1000, 1000
SPECS = {spec.name: spec for spec in all_specs(SEED)}
CATEGORIES = {spec.task.category for spec in SPECS.values()}
KNOWLEDGE = "closed-book knowledge"
NEAR = 0.6  # share of shared inputs with the same answer that makes two tasks near-duplicates


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> TaskCollection:
    return SyntheticTasks(SEED, SPLIT, 256, str(tmp_path_factory.mktemp("cache"))).build()


@pytest.mark.parametrize("split", range(1000, 1020))
def test_roles_of_a_split(split: int) -> None:
    """Every category is trained and unseen; parts of an unseen task are trained."""
    roles = SyntheticTasks(SEED, split).roles()
    train = set(roles["train"])
    assert sorted(task for role in SPLITS for task in roles[role]) == sorted(SPECS)
    assert 39 <= len(train) <= 47
    assert len(roles["dev"]) == 6
    assert 16 <= len(roles["test"]) <= 19
    for role in SPLITS:
        assert {SPECS[task].task.category for task in roles[role]} == CATEGORIES
    groups = Counter(SPECS[task].task.subcategory for task in train)
    parts_of_trained = {part for task in train for part in SPECS[task].parts}
    for task in (*roles["dev"], *roles["test"]):
        assert set(SPECS[task].parts) <= train
        assert groups[SPECS[task].task.subcategory] >= 2
        assert task not in parts_of_trained


def test_splits_differ_in_what_is_unseen() -> None:
    tests = [set(SyntheticTasks(split=split).roles()["test"]) for split in range(1000, 1010)]
    for one, other in combinations(tests, 2):
        assert len(one - other) >= 3
    assert len(set.union(*tests)) >= 30


def _items(spec: Spec, count: int = 150) -> list[Item]:
    rng = random.Random(spec.name)
    return [spec.draw(rng, rng.choice(spec.strata)) for _ in range(count)]


ITEMS = {name: _items(spec) for name, spec in SPECS.items()}


def _answers(one: Spec, other: Spec) -> list[tuple[str, str]]:
    """Both tasks' answers on the inputs of either that both can answer."""
    if type(ITEMS[one.name][0]) is not type(ITEMS[other.name][0]):
        return []  # see test_families_share_no_input
    pairs = [(one.answer(i), other.answer(i)) for i in ITEMS[one.name] + ITEMS[other.name]]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def test_families_share_no_input(suite: TaskCollection) -> None:
    kinds = {name: type(items[0]) for name, items in ITEMS.items()}
    inputs: dict[type, set[str]] = defaultdict(set)
    for task, text in zip(suite.rows["task"], suite.rows["input"], strict=True):
        inputs[kinds[task]].add(text)
    assert len(inputs) == 5
    for one, other in combinations(inputs.values(), 2):
        assert one.isdisjoint(other)


def test_no_two_tasks_are_equivalent_or_nearly() -> None:
    compared = 0
    for one, other in combinations(SPECS.values(), 2):
        answers = _answers(one, other)
        same = sum(a == b for a, b in answers)
        assert same <= NEAR * len(answers), (one.name, other.name, same / len(answers))
        compared += bool(answers)
    assert compared > 400


def test_functions_are_those_behind_the_rows(suite: TaskCollection) -> None:
    """What the comparison of functions shows holds for the rows that are trained and tested."""
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    rows = suite.rows
    for task, text, outputs in zip(rows["task"], rows["input"], rows["outputs"], strict=True):
        assert answers[task].setdefault(text, outputs[0]) == outputs[0]
    for name, spec in SPECS.items():
        drawn = {item.text: spec.answer(item) for item in ITEMS[name]}
        for text in drawn.keys() & answers[name].keys():
            assert drawn[text] == answers[name][text]
    for unseen in suite.roles["test"]:
        for trained in suite.roles["train"]:
            both = answers[unseen].keys() & answers[trained].keys()
            same = sum(answers[unseen][text] == answers[trained][text] for text in both)
            assert len(both) < 20 or same <= NEAR * len(both), (unseen, trained)


@pytest.mark.parametrize("split", range(1000, 1005))
def test_no_unseen_task_is_a_trained_one_with_other_answers(split: int) -> None:
    """Nor do other names for the answers make it a trained task: trained labels do not tell it.

    Only tasks with few answers are compared so: whoever copies the colour knows its label by
    heart, that is content. A composed task does follow from its parts.
    """
    roles = SyntheticTasks(SEED, split).roles()
    compared = 0
    for unseen in (SPECS[task] for task in roles["test"]):
        for trained in (SPECS[task] for task in roles["train"]):
            answers = _answers(trained, unseen)
            few = all(len(set(column)) <= 4 for column in zip(*answers, strict=True))
            if few and answers and trained.name not in unseen.parts:
                assert _looked_up(answers) < 0.85, (unseen.name, trained.name)
                compared += 1
    assert compared >= 20


def _looked_up(answers: Iterable[tuple[str, str]]) -> float:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for given, wanted in answers:
        table[given][wanted] += 1
    right = sum(max(wanted.values()) for wanted in table.values())
    return right / sum(wanted.total() for wanted in table.values())


def _subjects(suite: TaskCollection, task: str, split: Split, samples: Iterable[str]) -> set[str]:
    texts = (e.input for sample in samples for e in suite.examples(task, split, sample))
    return {word for text in texts for word in text.split() if word in SPECS[task].strata}


def _facts(suite: TaskCollection, task: str) -> dict[str, str]:
    return {
        word: example.outputs[0]
        for example in suite.examples(task, "train", POOL)
        for word in example.input.split()
        if word in SPECS[task].strata
    }


def test_trained_facts_are_all_in_the_pool(suite: TaskCollection) -> None:
    trained = [t for t in suite.roles["train"] if suite.tasks[t].category == KNOWLEDGE]
    assert len(trained) >= 8
    for task in trained:
        assert set(_facts(suite, task)) == set(SPECS[task].strata)
        for example in suite.examples(task, "test", "13"):
            (subject,) = set(example.input.split()) & set(SPECS[task].strata)
            assert example.outputs == (_facts(suite, task)[subject],)


def test_unseen_facts_are_about_persons_the_examples_do_not_show(suite: TaskCollection) -> None:
    unseen = [
        task
        for task in (*suite.roles["test"], *suite.roles["dev"])
        if suite.tasks[task].category == KNOWLEDGE
    ]
    assert len(unseen) == 4
    for task in unseen:
        train, dev, test = (_subjects(suite, task, split, suite.samples) for split in SPLITS)
        assert train.isdisjoint(dev)
        assert test.isdisjoint(train | dev)
        assert len(test) >= 12
        bridge, answer = (_facts(suite, part) for part in SPECS[task].parts)
        for example in suite.examples(task, "test", "13"):
            (who,) = test.intersection(example.input.split())
            assert example.outputs == (answer[bridge[who]],)
