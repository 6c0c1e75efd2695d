"""The few-shot draw of ``tasks=folder``: the gym's rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from moe_tasks.tasks.base import SPLITS, TaskCollection
from tests.tasks.folder_files import build, free, jsonl, labelled, put


def draws(collection: TaskCollection, sample: str) -> tuple[list[Any], list[Any], list[Any]]:
    train, dev, test = (collection.examples("qa", split, sample) for split in SPLITS)
    return train, dev, test


def test_classification_draws_16_a_class_for_train_and_dev(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(labelled(300, ("a", "b", "c"))))
    put(tmp_path, "qa.test.jsonl", jsonl(labelled(30, ("a", "b", "c"), "t")))
    collection = build(tmp_path)
    assert collection.samples == ("100", "13", "21", "42", "87")
    assert collection.task("qa").features["classification"] is True
    seen = set()
    for sample in collection.samples:
        train, dev, test = draws(collection, sample)
        assert Counter(e.outputs[0] for e in train) == {"a": 16, "b": 16, "c": 16}
        assert Counter(e.outputs[0] for e in dev) == {"a": 16, "b": 16, "c": 16}
        assert not {e.input for e in train} & {e.input for e in dev}
        assert len(test) == 30
        seen.add(frozenset(e.input for e in train))
    assert len(seen) == 5


def test_other_tasks_draw_32_in_all(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(100)))
    put(tmp_path, "qa.test.jsonl", jsonl(free(3, "t")))
    collection = build(tmp_path, num_samples=7)
    assert collection.samples[5:] == ("101", "102")
    for sample in collection.samples:
        train, dev, _ = draws(collection, sample)
        assert len({e.input for e in train}) == len({e.input for e in dev}) == 32
        assert not {e.input for e in train} & {e.input for e in dev}


def test_multiple_choice_is_no_classification(tmp_path: Path) -> None:
    rows = [
        {"input": f"q {i}", "output": f"{i}", "options": [f"{i}", f"{i + 1}"]} for i in range(80)
    ]
    put(tmp_path, "qa.train.jsonl", jsonl(rows))
    collection = build(tmp_path)
    assert collection.task("qa").metric == "ACC"
    assert collection.task("qa").features["classification"] is False
    assert len(collection.slice("qa", "train", "13")) == 32


def test_shots_by_key(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(labelled(100)))
    put(tmp_path, "qa.test.jsonl", jsonl(labelled(4, kind="t")))
    assert len(build(tmp_path, shots=3).slice("qa", "train", "13")) == 6
    everything = build(tmp_path, shots="all")
    assert len(everything.slice("qa", "train", "13")) == 80
    assert len(everything.slice("qa", "dev", "13")) == 20
    put(tmp_path, "qa.dev.jsonl", jsonl(labelled(50, kind="d")))
    everything = build(tmp_path, shots="all")
    assert len(everything.slice("qa", "train", "13")) == 100
    assert len(everything.slice("qa", "dev", "13")) == 50


def test_dev_rows_come_from_the_dev_file(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(labelled(20)))
    put(tmp_path, "qa.dev.jsonl", jsonl(labelled(100, kind="d")))
    train, dev, _ = draws(build(tmp_path), "42")
    assert len(train) == 16  # of the 16 rows that the held-out test part leaves
    assert len(dev) == 32
    assert all(e.input.startswith("d ") for e in dev)


def test_a_small_class_is_halved(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(labelled(100)[:80:2] + labelled(100)[1:10:2]))
    put(tmp_path, "qa.test.jsonl", jsonl(labelled(4, kind="t")))
    train, dev, _ = draws(build(tmp_path), "21")
    assert Counter(e.outputs[0] for e in train) == {"yes": 16, "no": 3}
    assert Counter(e.outputs[0] for e in dev) == {"yes": 16, "no": 2}


def test_without_a_test_file_the_same_part_is_held_out_for_all_samples(tmp_path: Path) -> None:
    path = put(tmp_path, "qa.train.jsonl", jsonl(free(100)))
    collection = build(tmp_path)
    assert collection.skipped == (f"note: {path}: no test file for 'qa': 20 rows held out as test",)
    tests = [collection.examples("qa", "test", sample) for sample in collection.samples]
    assert all(test == tests[0] for test in tests)
    held_out = {e.input for e in tests[0]}
    assert len(held_out) == 20
    for sample in collection.samples:
        train, dev, _ = draws(collection, sample)
        assert not held_out & {e.input for e in (*train, *dev)}


def test_a_draw_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(90)))
    put(tmp_path / "other", "qa.train.jsonl", jsonl(free(90)[::-1]))
    assert build(tmp_path).rows.to_list() == build(tmp_path / "other").rows.to_list()
