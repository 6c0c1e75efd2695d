"""``tasks=t0``: every task's wordings on rows with the hub's columns; files, hub, and neither."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from moe_tasks.errors import UserError
from moe_tasks.tasks.prompted_task import PromptedCollection
from moe_tasks.tasks.t0 import CATALOGUE, T0Tasks, read_settings
from tests.tasks.prompted_files import PROMPTSOURCE, nli, write_rows
from tests.tasks.t0_rows import OUTPUTS, ROWS

HELD_OUT = (
    "anli_r1", "anli_r2", "anli_r3", "cb", "copa", "hellaswag", "rte", "story_cloze", "wic",
    "winogrande", "wsc",
)  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> PromptedCollection:
    """All tasks, ten equal rows each, Parquet and JSONL in turn."""
    root = tmp_path_factory.mktemp("t0")
    for number, (task, row) in enumerate(ROWS.items()):
        name = "test" if task in HELD_OUT else "train"
        write_rows(root / task / f"{name}.{('parquet', 'jsonl')[number % 2]}", [row] * 10)
    return T0Tasks(str(root), cache_dir=str(root / "cache")).build()


def test_the_tasks_and_their_roles(collection: PromptedCollection) -> None:
    assert set(collection.tasks) == set(ROWS) == set(read_settings(CATALOGUE))
    assert collection.roles["test"] == HELD_OUT
    assert len(collection.roles["train"]) == 38
    categories = {collection.tasks[task].category for task in HELD_OUT}
    assert not categories & {collection.tasks[t].category for t in collection.roles["train"]}


@pytest.mark.parametrize("task", sorted(ROWS))
def test_every_wording_of_a_row(collection: PromptedCollection, task: str) -> None:
    prompted = collection.prompted[task]
    made = [prompted.worded("test", template)[0] for template in prompted.templates]
    assert 2 <= len({example.input for example in made}) == len(made)
    for example, template in zip(made, prompted.templates, strict=True):
        assert not re.search(r"[{}\[\]]|undefined", example.input)
        assert bool(example.options) == (collection.tasks[task].metric == "ACC")
        assert template.words
        said = set(re.findall(r"[a-z]{3,}", example.input.lower()))
        assert said & set(re.findall(r"[a-z]{3,}", str(list(ROWS[task].values())).lower()))
    assert [example.outputs for example in made] == OUTPUTS.get(task, [e.outputs for e in made])
    assert collection.tasks[task].instruction


def test_promptsources_own_file_replaces_our_wordings(tmp_path: Path) -> None:
    write_rows(tmp_path / "cb" / "test.arrow", nli(6))
    (tmp_path / "cb" / "templates.yaml").write_text(PROMPTSOURCE)
    tasks = T0Tasks(str(tmp_path), tasks=["cb"], cache_dir=str(tmp_path / "cache")).build()
    assert [t.name for t in tasks.prompted["cb"].templates] == ["does it follow?", "true or false"]


@pytest.mark.parametrize("with_folder", [True, False])
def test_neither_files_nor_hub_is_one_error(with_folder: bool, tmp_path: Path) -> None:
    path = str(tmp_path) if with_folder else ""
    where = f"{tmp_path}/cb/test.jsonl" if with_folder else "DIR/cb/test.jsonl"
    with pytest.raises(UserError, match=r"^task 'cb': hub data set aps/super_glue ") as error:
        T0Tasks(path, tasks=["cb"], cache_dir=str(tmp_path / "cache")).build()
    assert "split validation: " in str(error.value)
    assert where in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_task_and_a_missing_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown task 'winograd'; did you mean 'winogrande'"):
        T0Tasks(tasks=["winograd"]).build()
    row = {key: value for key, value in ROWS["wic"].items() if key != "word"}
    write_rows(tmp_path / "wic" / "test.jsonl", [row])
    with pytest.raises(UserError, match=r"task 'wic', .*test.jsonl:1: no column 'word'"):
        T0Tasks(str(tmp_path), tasks=["wic"], cache_dir=str(tmp_path / "cache")).build()


def test_rows_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is a program there comes from the hub's export; the program never runs."""
    asked: list[tuple[Any, ...]] = []

    def load(path: str, name: Any = None, *, split: str, **options: Any) -> datasets.Dataset:
        asked.append((path, name, split, options.get("data_files")))
        if path != "parquet":
            raise RuntimeError("Dataset scripts are no longer supported, but found super_glue.py")
        return datasets.Dataset.from_list([{**ROWS["cb"], "idx": n} for n in range(30)])

    monkeypatch.setattr(datasets, "load_dataset", load)
    tasks = T0Tasks(tasks=["cb"], max_rows=10, cache_dir=str(tmp_path))
    rows = tasks.build().prompted["cb"].pools["test"]
    export = "hf://datasets/aps/super_glue@refs%2Fconvert%2Fparquet/cb/validation/*.parquet"
    assert asked == [
        ("aps/super_glue", "cb", "validation", None),
        ("parquet", None, "validation", {"validation": export}),
    ]
    numbers = [row.columns["idx"] for row in rows]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert max(numbers) > 15  # from everywhere in the file, which may be sorted by label
    assert rows[0].where == f"aps/super_glue/validation:{numbers[0] + 1}"
