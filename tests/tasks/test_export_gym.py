"""Writing a collection in the gym's layout and reading it back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import ROW_FEATURES, SPLITS, Task, TaskCollection
from moe_tasks.tasks.export_gym import write_gym
from moe_tasks.tasks.gym import GymTasks
from moe_tasks.tasks.synthetic import SyntheticTasks


def _collection(
    text: str = "a b", sample: str = "13", options: tuple[str, ...] = (), **task: Any
) -> TaskCollection:
    own = Task(**{"name": "t", "metric": "EM", **task})
    rows = [
        {
            "task": own.name,
            "split": split,
            "sample": sample,
            "input": f"{split} {text}",
            "outputs": ["yes", "yes indeed"],
            "options": list(options),
        }
        for split in SPLITS
    ]
    table = datasets.Dataset.from_list(rows, features=ROW_FEATURES)
    return TaskCollection({own.name: own}, {"train": [own.name]}, [sample], table)


def _same(one: TaskCollection, other: TaskCollection) -> None:
    assert other.tasks == one.tasks
    assert other.roles == one.roles
    assert other.samples == one.samples
    for task in one.tasks:
        for sample in one.samples:
            for split in SPLITS:
                expected, found = (c.examples(task, split, sample) for c in (one, other))
                assert [(e.input, e.outputs) for e in found] == [
                    (e.input, e.outputs) for e in expected
                ]
                if len({e.options for e in expected}) == 1:
                    assert [e.options for e in found] == [e.options for e in expected]


def test_embedded_tasks_come_back_equal(tmp_path: Path) -> None:
    suite = SyntheticTasks(1000, 1000, 64, str(tmp_path / "cache")).build()
    folder = write_gym(suite, tmp_path / "new" / "suite")
    assert folder == tmp_path / "new" / "suite"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*suite.tasks, "ontology.json", "splits", "tasks.json"]
    )
    classify = folder / "classify-food" / "classify-food_16_100_train.tsv"
    assert classify.read_text().count("\n") == 32
    assert (folder / "extract-city" / "extract-city_32_87_test.tsv").is_file()
    _same(suite, GymTasks(str(folder), cache_dir=str(tmp_path / "cache")).build())


def test_any_collection_comes_back_equal(tmp_path: Path) -> None:
    features: Mapping[str, Any] = {"k": 7, "note": {"of": ["any", "kind"]}}
    mine = _collection("é , 'x'", options=("yes", "yes indeed"), category="c", features=features)
    folder = write_gym(mine, tmp_path / "mine")
    assert (folder / "t" / "t_7_13_dev.tsv").read_text() == "dev é , 'x'\tyes\tyes indeed\n"
    _same(mine, GymTasks(str(folder), cache_dir=str(tmp_path / "cache")).build())


@pytest.mark.parametrize(
    ("collection", "named"),
    [
        (_collection("tab\there"), "t_32_13_train.tsv"),
        (_collection("line\nbreak"), "line"),
        (_collection("space at the end "), "space at the end"),
        (_collection(name="../up"), r"\.\./up"),
        (_collection(sample="a_b"), "a_b"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_left(
    tmp_path: Path, collection: TaskCollection, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        write_gym(collection, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_features_that_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="features"):
        write_gym(_collection(features={"f": {1, 2}}), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_never_writes_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UserError, match="exists already"):
            write_gym(_collection(), folder)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "kept"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_gym(_collection(), tmp_path / "file" / "out")
