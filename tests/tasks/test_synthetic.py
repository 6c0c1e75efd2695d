"""The embedded tasks: what they are, their rows, their roles."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.evaluation import metrics  # noqa: F401  registers the metrics
from moe_tasks.registry import names
from moe_tasks.tasks.base import SPLITS, Split, TaskCollection
from moe_tasks.tasks.synthetic import POOL, SyntheticTasks

SAMPLES = ("100", "13", "21", "42", "87")
CATEGORIES = {
    "classification",
    "extraction",
    "closed-book knowledge",
    "multiple choice",
    "conditional generation",
}
SEED, SPLIT, ROWS = 1000, 1000, 256
_HIGHEST = "choose-highest_number"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def suite(cache: str) -> TaskCollection:
    return SyntheticTasks(SEED, SPLIT, ROWS, cache).build()


def _inputs(suite: TaskCollection, task: str, split: Split, samples: tuple[str, ...]) -> set[str]:
    return {e.input for s in samples for e in suite.examples(task, split, s)}


def _content(suite: TaskCollection) -> str:
    columns = suite.rows.to_dict()
    return hashlib.sha256(repr((columns, suite.roles, suite.tasks)).encode()).hexdigest()


def test_registered_and_filled_from_a_configuration(cache: str) -> None:
    part = config.part("tasks", {"name": "synthetic", "seed": 3, "cache_dir": cache})
    assert part == SyntheticTasks(seed=3, cache_dir=cache)


@pytest.mark.parametrize("values", [{"seed": -1}, {"split": -1}, {"train_rows": 0}])
def test_impossible_values_name_their_key(values: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        config.part("tasks", {"name": "synthetic", **values})


def test_tasks_and_categories(suite: TaskCollection) -> None:
    assert 64 <= len(suite.tasks) <= 80
    subcategories: dict[str, set[str]] = {}
    for task in suite.tasks.values():
        subcategories.setdefault(task.category, set()).add(task.subcategory)
        assert task.metric in names("metric")
        assert task.instruction[-1] in ".?"
        flags = {"classification", "extractive", "world_knowledge", "num_options"}
        assert flags <= set(task.features)
    assert set(subcategories) == CATEGORIES
    assert all(len(found) >= 2 for found in subcategories.values())
    assert len({task.instruction for task in suite.tasks.values()}) == len(suite.tasks)


def test_text_is_short_plain_english_of_few_words(suite: TaskCollection) -> None:
    texts = [*suite.rows["input"], *(o for outputs in suite.rows["outputs"] for o in outputs)]
    assert all(text.isascii() for text in texts)
    words = {word for text in texts for word in text.split()}
    assert 300 <= len(words) <= 500
    assert {word for word in words if not word.islower()} <= set(",.?") | {
        f"({mark})" for mark in "ABCD"
    }
    assert max(len(text.split()) for text in suite.rows["input"]) <= 40
    assert all(1 <= len(o.split()) <= 6 for outputs in suite.rows["outputs"] for o in outputs)


def test_k_shot_rule(suite: TaskCollection) -> None:
    for name, task in suite.tasks.items():
        for sample in SAMPLES:
            for split in ("train", "dev"):
                examples = suite.examples(name, split, sample)
                if task.features["classification"]:
                    labels = examples[0].options
                    assert len(labels) == task.features["num_options"]
                    assert Counter(e.outputs[0] for e in examples) == dict.fromkeys(labels, 16)
                else:
                    assert len(examples) == 32


def test_row_splits_share_no_input(suite: TaskCollection) -> None:
    for name in suite.tasks:
        train = _inputs(suite, name, "train", SAMPLES)
        if name in suite.roles["train"]:
            train |= _inputs(suite, name, "train", (POOL,))
        dev = _inputs(suite, name, "dev", SAMPLES)
        test = _inputs(suite, name, "test", SAMPLES)
        assert not train & dev | train & test | dev & test, name
        assert len(test) == 100, name  # 100 different ones, and the same for every sample
        few = [_inputs(suite, name, "train", (sample,)) for sample in SAMPLES]
        assert all(few[i] != few[j] for i in range(5) for j in range(i)), name


def test_every_answer_is_the_task_function(suite: TaskCollection) -> None:
    """One input has one answer, and an option list holds it."""
    for name in suite.tasks:
        rows = [e for sp in SPLITS for s in SAMPLES for e in suite.examples(name, sp, s)]
        answers = {e.input: e.outputs for e in rows}
        assert all(answers[e.input] == e.outputs for e in rows)
        assert all(e.outputs[0] in e.options for e in rows if e.options)


def test_extractions_and_choices_of_rows(suite: TaskCollection) -> None:
    def rows(task: str) -> list[tuple[list[str], str]]:
        return [(e.input.split(), e.outputs[0]) for e in suite.examples(task, "test", "13")]

    numbers = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    order = {word: i for i, word in enumerate([*numbers.split(), "sixteen", "seventeen"])}
    ranked = [([order[word] for word in w[1::2]], order[out]) for w, out in rows(_HIGHEST)]
    assert all(max(values) == value for values, value in ranked)
    cities = {out for _, out in rows("extract-city")}
    assert {"oslo", "lima"} <= cities
    assert cities.isdisjoint(out for _, out in rows("extract-animal"))
    assert all(w.count(out) == 1 for w, out in rows("extract-city"))
    assert all(out == "frog" for w, out in rows("choose-smallest_animal") if "frog" in w)
    assert all(out == w[-2] for w, out in rows("extract-last_word"))
    labels = {word: out for w, out in rows("classify-animal_size") for word in w}
    assert (labels["elephant"], labels["frog"]) == ("big", "small")


def test_transformations_of_rows(suite: TaskCollection) -> None:
    def rows(task: str) -> list[tuple[list[str], str]]:
        return [(e.input.split(), e.outputs[0]) for e in suite.examples(task, "test", "13")]

    assert all(out == " ".join(reversed(w)) for w, out in rows("transform-reverse"))
    assert all(
        out == f"{w[-1]} {' '.join(w[1:-1])} {w[0]}" for w, out in rows("transform-swap_ends")
    )
    for (who, verb, *things), out in rows("transform-past_passive"):
        assert out == f"{' '.join(things)} were {verb[:-1]}ed by {who}"
    for (who, verb, *things), out in rows("transform-past_question"):
        assert out == f"did {who} {verb[:-1]} {' '.join(things)}"


def test_pool_is_only_for_train_tasks_and_changes_nothing_else(
    suite: TaskCollection, cache: str
) -> None:
    plain = SyntheticTasks(SEED, SPLIT, cache_dir=cache).build()
    assert plain.roles == suite.roles
    assert suite.samples == plain.samples == SAMPLES
    for name in suite.roles["train"]:
        assert len(_inputs(suite, name, "train", (POOL,))) == ROWS
        with pytest.raises(UserError, match="pool"):
            plain.slice(name, "train", POOL)
    for name in suite.roles["test"]:
        with pytest.raises(UserError, match="pool"):
            suite.slice(name, "train", POOL)
    for name in suite.tasks:
        for sample in SAMPLES:
            for split in SPLITS:
                assert suite.examples(name, split, sample) == plain.examples(name, split, sample)


def test_too_large_a_pool_names_key_and_task(cache: str) -> None:
    with pytest.raises(UserError, match=r"tasks\.train_rows is too large: task '[a-z_-]+'"):
        SyntheticTasks(SEED, SPLIT, 1_000_000, cache).build()


def test_seed_changes_rows_and_facts_but_no_role(suite: TaskCollection, cache: str) -> None:
    other = SyntheticTasks(SEED + 1, SPLIT, ROWS, cache).build()
    assert other.roles == suite.roles
    for name in suite.tasks:
        assert other.examples(name, "test", "13") != suite.examples(name, "test", "13")
    answers = [
        {e.input: e.outputs for e in c.examples("know-person_town", "train", POOL)}
        for c in (suite, other)
    ]
    both = answers[0].keys() & answers[1].keys()
    assert any(answers[0][text] != answers[1][text] for text in both)


def test_same_in_another_process(suite: TaskCollection, tmp_path: Path) -> None:
    code = (
        "import sys; from moe_tasks.tasks.synthetic import SyntheticTasks as S\n"
        "from tests.tasks.test_synthetic import _content\n"
        f"print(_content(S({SEED}, {SPLIT}, {ROWS}, sys.argv[1]).build()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == _content(suite), result.stderr
