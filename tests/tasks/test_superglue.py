"""SuperGLUE's folders and the hub's rows: the same examples; files with faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.evaluation.superglue import METRICS
from moe_tasks.registry import names
from moe_tasks.tasks.base import Example
from moe_tasks.tasks.detailed import DetailedCollection
from tests.tasks.superglue_files import HUB, LINES, MULTIRC, RECORD, write, write_all

YES_NO = ("false", "true")
NLI = ("entailment", "contradiction", "neutral")
SAID = "Ann met Bob Ray. They ate"
PEOPLE = ("Ann", "Bob Ray")
READ = "Sent 1: Ann ate. Bob slept."
EXPECTED = {
    "boolq": [Example("is it so [SEP] So it is.", ("true",), YES_NO)],
    "cb": [Example("It is so. [SEP] so", ("neutral",), NLI)],
    "copa": [
        Example("It fell. [SEP] What happened as a result?", ("It broke.",),
                ("Wind blew.", "It broke.")),
    ],
    "multirc": [
        Example(f"{READ} [SEP] Who ate? [SEP] Ann", ("1",), ("0", "1")),
        Example(f"{READ} [SEP] Who ate? [SEP] Bob", ("0",), ("0", "1")),
        Example(f"{READ} [SEP] Who slept? [SEP] Bob", ("1",), ("0", "1")),
    ],
    "record": [
        Example(f"{SAID} [SEP] @placeholder was hungry", ("Bob Ray",), PEOPLE),
        Example(f"{SAID} [SEP] so was @placeholder", ("Ann",), PEOPLE),
    ],
    "rte": [Example("All is so. [SEP] It is.", ("entailment",), ("entailment", "not_entailment"))],
    "wic": [Example("place [SEP] A place. [SEP] Place it.", ("false",), YES_NO)],
    "wsc": [Example("* Mark * told Pete lies which # he # believed.", ("true",), YES_NO)],
}  # fmt: skip


def build(root: Path | None, cache: Path, **keys: object) -> DetailedCollection:
    own = {"name": "superglue", "path": root and str(root), "cache_dir": str(cache), **keys}
    return config.part("tasks", own).build()


def check(found: DetailedCollection) -> None:
    assert found.roles["train"] == tuple(EXPECTED)
    for task, examples in EXPECTED.items():
        assert found.examples(task, "train", "full") == examples, task
        assert found.examples(task, "dev", "full") == examples, task
    assert found.of_rows("group", "multirc", "dev") == ("4/7", "4/7", "4/8")
    assert found.of_rows("group", "boolq", "dev") == (None,)


def test_official_folders(tmp_path: Path) -> None:
    root = write_all(tmp_path / "superglue")
    found = build(root, tmp_path / "cache")
    check(found)
    check(build(root, tmp_path / "cache"))  # from the cache
    assert build(root, tmp_path / "cache", tasks=["cb"]).roles["train"] == ("cb",)
    kinds = {name: task.features["head_kind"] for name, task in found.tasks.items()}
    assert {name for name, kind in kinds.items() if kind == "choice"} == {"copa", "record"}
    for name, task in found.tasks.items():
        assert (kinds[name] == "classification") == ("labels" in task.features)
        assert task.metric in names("metric")
    assert set(METRICS) == set(found.tasks)


SO = "It fell. [SEP] What happened as a result?"
PAIRS = {
    "copa": [
        (Example(f"{SO} Wind blew.", ("0",), ("0", "1")), "0", "Wind blew.", ["It broke."]),
        (Example(f"{SO} It broke.", ("1",), ("0", "1")), "0", "It broke.", ["It broke."]),
    ],
    "record": [
        (Example(f"{SAID} [SEP] Ann was hungry", ("0",), ("0", "1")), "0/0", "Ann", ["Bob Ray"]),
        (Example(f"{SAID} [SEP] Bob Ray was hungry", ("1",), ("0", "1")), "0/0", "Bob Ray",
         ["Bob Ray"]),
        (Example(f"{SAID} [SEP] so was Ann", ("1",), ("0", "1")), "0/1", "Ann", ["Ann"]),
        (Example(f"{SAID} [SEP] so was Bob Ray", ("0",), ("0", "1")), "0/1", "Bob Ray", ["Ann"]),
    ],
}  # fmt: skip


def check_pairs(found: DetailedCollection) -> None:
    for task, expected in PAIRS.items():
        assert found.task(task).features == {"head_kind": "choice", "labels": ["0", "1"]}
        assert found.examples(task, "dev", "full") == [row[0] for row in expected]
        for number, name in enumerate(("group", "option", "answers"), 1):
            assert list(found.of_rows(name, task, "dev")) == [row[number] for row in expected]
    assert found.of_rows("group", "multirc", "dev") == ("4/7", "4/7", "4/8")
    assert found.examples("boolq", "dev", "full") == EXPECTED["boolq"]


def test_choices_as_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row per option, of the official files and of the hub's tables."""
    root = write_all(tmp_path / "superglue")
    check_pairs(build(root, tmp_path / "cache", pairs=True))
    check_pairs(build(root, tmp_path / "cache", pairs=True))  # from the cache
    check(build(root, tmp_path / "cache"))  # which it is not taken for
    load = lambda path, name, **others: datasets.Dataset.from_list(HUB[name])  # noqa: E731
    monkeypatch.setattr(datasets, "load_dataset", load)
    check_pairs(build(None, tmp_path, hub="some/super_glue", pairs=True))


@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        ("COPA", {"idx": None}, "no 'idx'"),
        ("COPA", {"choice2": None}, "no 'choice2'; did you mean 'choice1'"),
        ("COPA", {"label": 2}, "'label' is 2: outside the list"),
        ("COPA", {"label": -1}, "'label' is -1: a row without a label"),
        ("ReCoRD", {"qas": [{"query": "@placeholder", "answers": [{"text": "x"}]}]}, "no 'query'"),
        ("ReCoRD", {"passage": {"text": "a b", "entities": []}}, "no options to choose among"),
    ],
)
def test_a_pair_that_cannot_be_made_is_one_message(
    task: str, cells: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, task, changed(task, **cells))
    write(tmp_path, task, LINES[task], split="val")
    with pytest.raises(UserError, match=rf"train\.jsonl:1: {message}") as raised:
        build(tmp_path, tmp_path, pairs=True)
    assert "\n" not in str(raised.value)


def test_a_separator_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "RTE", LINES["RTE"])
    write(tmp_path, "RTE", LINES["RTE"], split="val")
    (row,) = build(tmp_path, tmp_path, separator="|").examples("rte", "dev", "full")
    assert row.input == "All is so.|It is."


def test_the_hubs_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, name: str, split: str, **others: Any) -> datasets.Dataset:
        assert (path, split in ("train", "validation")) == ("some/super_glue", True)
        return datasets.Dataset.from_list(HUB[name])

    monkeypatch.setattr(datasets, "load_dataset", load)
    check(build(None, tmp_path, hub="some/super_glue"))


def test_without_the_hub_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hub data set some/glue \(cb\), split train: .") as raised:
        build(None, tmp_path, hub="some/glue", tasks=["cb"])
    assert "\n" not in str(raised.value)
    for keys in ({}, {"hub": "x", "path": "y"}):
        with pytest.raises(UserError, match=r"'path' \(a folder\) or 'hub'.*(neither|both)"):
            build(None, tmp_path, **keys)


def test_the_place_decides_between_pronouns(tmp_path: Path) -> None:
    """Published texts of spans differ in case and punctuation, places hold; spans may touch."""
    target = {"span1_index": 1, "span1_text": "His Cat", "span2_index": 3, "span2_text": "his"}
    write(tmp_path, "WSC", {"text": "Bo, his cat, his joy.", "target": target, "label": False})
    write(tmp_path, "WSC", LINES["WSC"], split="val")
    (row,) = build(tmp_path, tmp_path).examples("wsc", "train", "full")
    assert row.input == "Bo, * his cat, * # his # joy."


def changed(task: str, **cells: Any) -> dict[str, Any]:
    line = {**LINES[task], **cells}
    return {key: value for key, value in line.items() if value is not None}


RECORD_QUERY: list[Any] = [{**RECORD["qas"][0], "query": "nobody"}]
NO_ANSWER: list[Any] = [{**RECORD["qas"][0], "answers": []}]
NO_TEXT = {"questions": MULTIRC["passage"]["questions"]}
SPAN = {**LINES["WSC"]["target"], "span2_index": 7}
MISTAKES = {
    "json": ("BoolQ", '{"question": ', "not JSON"),
    "list": ("BoolQ", "[1]", r"expected \{\.\.\.\}, got \[1\]"),
    "column": ("BoolQ", changed("BoolQ", passage=None, pasage="x"),
               "no 'passage'; did you mean 'pasage'"),
    "no label": ("RTE", changed("RTE", label=None), "no 'label'"),
    "label": ("CB", changed("CB", label="contradicts"), "'contradicts'; did you mean 'contradict"),
    "number": ("BoolQ", changed("BoolQ", label=2), "'label' is 2: outside the .*valid: 0 to 1"),
    "test": ("BoolQ", changed("BoolQ", label=-1), "'label' is -1: a row without a label"),
    "empty": ("WiC", changed("WiC", sentence2=" "), "'sentence2' is empty"),
    "type": ("WiC", changed("WiC", word=["a"]), r"'word' is \['a'\]; expected text"),
    "copa": ("COPA", changed("COPA", question="affect"), "'affect'; did you mean 'effect'"),
    "span": ("WSC", changed("WSC", target=SPAN), "'span2_index' is 7; the text has 7 words"),
    "query": ("ReCoRD", changed("ReCoRD", qas=RECORD_QUERY), "'nobody' has no @placeholder"),
    "answers": ("ReCoRD", changed("ReCoRD", qas=NO_ANSWER), "'answers' is empty: a row without"),
    "passage": ("MultiRC", changed("MultiRC", passage=NO_TEXT), "no 'text'"),
    "nesting": ("MultiRC", changed("MultiRC", passage="text"), "expected {...} with 'questions'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_fault_in_a_file_is_one_message(name: str, tmp_path: Path) -> None:
    task, line, message = MISTAKES[name]
    write(tmp_path, task, LINES[task], line)
    write(tmp_path, task, LINES[task], split="val")
    with pytest.raises(UserError, match=rf"{task}.train\.jsonl:2: .*{message}") as raised:
        build(tmp_path, tmp_path / "cache")
    assert "\n" not in str(raised.value)
    good = EXPECTED[task.lower()]
    found = build(tmp_path, tmp_path / "cache", on_bad_row="skip", max_bad_share=0.5)
    assert found.examples(task.lower(), "train", "full") == good
    assert len(found.skipped) == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    root = write_all(tmp_path / "superglue")
    with pytest.raises(UserError, match="unknown task 'bolq'; did you mean 'boolq'"):
        build(root, tmp_path, tasks=["bolq"])
    (root / "CB" / "val.jsonl").rename(root / "CB" / "valid.jsonl")
    with pytest.raises(UserError, match=r"no file .*CB.val\.jsonl; did you mean 'valid\.jsonl'"):
        build(root, tmp_path)
    (root / "CB" / "val.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"val\.jsonl: no usable dev rows of 'cb'"):
        build(root, tmp_path)
    with pytest.raises(UserError, match="holds none of SuperGLUE's folders"):
        build(root / "CB", tmp_path)
