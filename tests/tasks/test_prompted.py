"""``tasks=prompted`` and ``tasks=prompted_synthetic``: rows in several wordings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from moe_tasks.errors import UserError
from moe_tasks.tasks.prompted_synthetic import PromptedSyntheticTasks
from moe_tasks.tasks.raw_rows import read_raw_rows
from moe_tasks.tasks.synthetic import SyntheticTasks
from tests.tasks.prompted_files import build, nli, write_rows, write_settings, write_task

FREE = {
    "one": {"input": "{{premise}} one", "target": "{{hypothesis}}"},
    "two": {"input": "{{premise}} two", "target": "{{hypothesis}}"},
}


def texts(collection: Any, task: str, split: Any = "train") -> list[str]:
    return [e.input for e in collection.examples(task, split, "all")]


def test_a_folder_of_promptsource_templates(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "cb", {"train": nli(), "test": nli(6)})
    write_settings(root, {"cb": {"category": "nli", "instruction": "decide what follows"}})
    collection = build(root)
    task = collection.task("cb")
    assert (task.metric, task.category) == ("ACC", "nli")
    assert task.features["classification"] is True
    assert collection.roles["train"] == ("cb",)
    (example, *_) = collection.prompted["cb"].worded("test", collection.prompted["cb"].templates[0])
    assert example.input == 'fact 0 holds Does it follow that "claim 0"?'
    assert example.outputs == ("Yes",)
    assert example.options == ("Yes", "No", "Maybe")
    assert len(texts(collection, "cb", "test")) == 6


@pytest.mark.parametrize("ext", ["jsonl", "parquet", "arrow"])
def test_rows_are_the_same_from_every_kind_of_file(ext: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / f"rows.{ext}", nli(1500))
    rows = read_raw_rows(path)
    assert [dict(row.columns) for row in rows] == nli(1500)
    assert rows[1200].where == f"{path}:1201"
    assert len(read_raw_rows(path, limit=7)) == 7


def test_arrow_files_with_a_footer(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(nli(3))
    path = tmp_path / "rows.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    assert [dict(row.columns) for row in read_raw_rows(path)] == nli(3)


def test_wordings_are_drawn_per_row_by_seed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "free", {"train": nli(60)}, FREE)
    drawn = [text.split()[-1] for text in texts(build(root), "free")]
    assert 10 < drawn.count("one") < 40
    assert texts(build(root), "free") == texts(build(root), "free")
    assert texts(build(root, seed=1), "free") != texts(build(root), "free")


def test_one_wording_or_every_one(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "free", {"train": nli(60)}, FREE)
    train = len(texts(build(root), "free"))
    assert {t.split()[-1] for t in texts(build(root, template="two"), "free")} == {"two"}
    assert len(texts(build(root, template="all"), "free")) == 2 * train
    with pytest.raises(UserError, match="no template 'tow'; did you mean 'two'"):
        build(root, template="tow")


def test_a_training_task_holds_rows_out_and_no_row_is_on_two_sides(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "free", {"train": nli(100)}, FREE)
    collection = build(root, template="one")
    split = {s: texts(collection, "free", s) for s in ("train", "dev", "test")}
    assert sorted(len(rows) for rows in split.values()) == [16, 20, 64]
    assert len({text for rows in split.values() for text in rows}) == 100


def test_an_unseen_task_needs_no_train_rows_and_keeps_all_its_rows(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "cb", {"dev": nli(9)})
    write_task(root, "free", {"train": nli()}, FREE)
    write_settings(root, {"cb": {"role": "test"}})
    collection = build(root)
    assert collection.roles["test"] == ("cb",)
    assert len(texts(collection, "cb", "test")) == 9


def test_held_out_tasks_and_categories(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abcd":
        write_task(root, name, {"train": nli()})
    settings = {n: {"category": "nli" if n in "ab" else "other"} for n in "abcd"}
    write_settings(root, settings)
    collection = build(root, held_out=["nli", "c"])
    assert collection.roles["test"] == ("a", "b", "c")
    assert collection.roles["train"] == ("d",)
    with pytest.raises(UserError, match="no task or category 'nil'; did you mean 'nli'"):
        build(root, held_out=["nil"])
    with pytest.raises(UserError, match="no task to train on"):
        build(root, held_out=["nli", "other"])


BROKEN = {"x": {"input": "{{premis}}", "target": "{{hypothesis}}"}}
OUTSIDE = {"x": {"input": "{{premise}}", "target": "perhaps", "answer_choices": ["a", "b"]}}
INTERNAL = {"x": {"input": "{{premise.__class__}}", "target": "{{hypothesis}}"}}


@pytest.mark.parametrize(
    ("templates", "reason"),
    [
        (BROKEN, "no column 'premis'; did you mean 'premise'"),
        (OUTSIDE, "output 'perhaps' is not among the options"),
        (INTERNAL, "forbidden in a template"),
    ],
)
def test_a_bad_row_names_task_template_and_row(templates: Any, reason: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "t", {"train": nli()}, templates)
    where = f"task 't', template 'x', row {root / 't' / 'train.jsonl'}:"
    with pytest.raises(UserError, match=re.escape(where)) as error:
        build(root)
    assert reason in str(error.value)
    assert not list((tmp_path / "cache").glob("*.arrow"))


def test_a_few_bad_rows_can_be_skipped(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = [*nli(99), {"premise": "p", "hypothesis": "h", "label": 7}]
    write_task(root, "cb", {"train": rows, "dev": nli(5), "test": nli(5)})
    collection = build(root, on_bad_row="skip")
    assert len(texts(collection, "cb")) == 99
    (line,) = collection.skipped
    assert "train.jsonl:100" in line
    with pytest.raises(UserError, match=r"train\.jsonl:100"):
        build(root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cb": {"rolle": "test"}}, "unknown key 'cb.rolle'; did you mean 'role'"),
        ({"cb": {"metric": "ACCC"}}, "unknown metric 'ACCC'"),
        ({"new": {}}, "task 'new' has no templates"),
        ({"cb": {"train": "gone.jsonl"}}, "gone.jsonl: no such file"),
        ({"cb": {"hub": {"name": "x"}}}, "missing key 'cb.hub.path'"),
    ],
)
def test_mistakes_in_tasks_yaml(settings: Any, message: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "cb", {"train": nli()})
    write_settings(root, settings)
    with pytest.raises(UserError, match=re.escape(message)):
        build(root)


def test_an_unreachable_hub_is_one_error(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_task(root, "cb", {})
    write_settings(root, {"cb": {"hub": {"path": "no/such", "splits": {"train": "train"}}}})
    with pytest.raises(UserError, match="hub data set no/such, split train"):
        build(root)


def write_relations(root: Path, templates: list[str], **facts: Any) -> None:
    root.mkdir()
    content = {"phase": {"group": "common", "templates": templates, "metric": "EM", **facts}}
    (root / "templates.json").write_text(json.dumps(content))
    (root / "phase").mkdir()
    answers = [("ice", ["solid"]), ("air", ["gas", "vapour"]), ("tea", ["liquid"])] * 7
    for number, template in enumerate(templates):
        lines = ("\t".join([template.format(s), *o]) for s, o in answers)
        text = "".join(f"{line}\n" for line in lines)
        (root / "phase" / f"template{number}_test.tsv").write_text(text)


def test_relations_in_several_wordings(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_relations(root, ["{} is a", "What is {}? It's"])
    task = build(root).prompted["phase"]
    assert [t.name for t in task.templates] == ["template0", "template1"]
    first, second = (task.worded("train", template) for template in task.templates)
    assert {e.input for e in second} <= {
        "What is ice? It's",
        "What is air? It's",
        "What is tea? It's",
    }
    assert first[0].options == ("gas", "liquid", "solid", "vapour")
    assert ("gas", "vapour") in {e.outputs for e in first}
    open_task = build(root, max_options=3).prompted["phase"]
    assert open_task.templates[0].answer_choices is None
    assert open_task.task.metric == "EM"


def test_files_of_a_relation_must_agree(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_relations(root, ["{} is a", "What is {}? It's"])
    file = root / "phase" / "template1_test.tsv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[2], *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=r"template1_test\.tsv:2: another row than .*template0"):
        build(root)
    file.write_text("\n".join([lines[0], "What was tea? It's\tx"]) + "\n")
    with pytest.raises(UserError, match=r"template1_test\.tsv:2: expected What is \.\.\."):
        build(root)


def test_the_shared_relations(shared: Path, tmp_path: Path) -> None:
    collection = build_shared(shared, tmp_path)
    assert len(collection.prompted) == 16
    assert sum(len(task.templates) for task in collection.prompted.values()) == 34
    for name, task in collection.prompted.items():
        for number, template in enumerate(task.templates):
            file = shared / "data" / "zeroshot" / name / f"template{number}_test.tsv"
            split = "test" if task.role == "test" else None
            lines = file.read_text().splitlines()
            if split:
                made = [[e.input, *e.outputs] for e in task.worded("test", template)]
                assert made == [line.split("\t") for line in lines]


def build_shared(shared: Path, tmp_path: Path) -> Any:
    from moe_tasks.tasks.prompted import PromptedTasks

    return PromptedTasks(
        str(shared / "data" / "zeroshot"),
        held_out=["linguistic", "factual"],
        cache_dir=str(tmp_path / "cache"),
    ).build()


def test_the_embedded_tasks_in_four_wordings(tmp_path: Path) -> None:
    cache = str(tmp_path)
    plain = SyntheticTasks(train_rows=40, cache_dir=cache).build()
    collection = PromptedSyntheticTasks(train_rows=40, cache_dir=cache).build()
    assert collection.roles == {r: tuple(sorted(n)) for r, n in plain.roles.items()}
    wordings = set()
    for name, task in collection.prompted.items():
        rows = plain.examples(name, "test", plain.samples[0])
        for template in task.templates:
            made = task.worded("test", template)
            assert [e.outputs for e in made] == [e.outputs for e in rows]
            assert all(r.input in e.input for e, r in zip(made, rows, strict=True))
            wordings.add(template.words)
        assert {len(t.words) > len("input") for t in task.templates} == {True}
    # What is wanted is said by every wording, so no two tasks share one.
    assert len(wordings) == 4 * len(collection.prompted)


def test_options_of_the_embedded_tasks(tmp_path: Path) -> None:
    collection = PromptedSyntheticTasks(train_rows=None, cache_dir=str(tmp_path)).build()
    counts = {}
    for name in collection.tasks:
        examples = collection.examples(name, "test", "all")
        counts.setdefault(name.split("-")[0], set()).update(len(e.options) for e in examples)
    assert counts["choose"] == {4}
    assert counts["classify"] == {2, 4}
    assert 0 not in counts["know"]
    assert counts["extract"] == counts["transform"] == {0}
