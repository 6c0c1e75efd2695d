"""Bring your own tasks: formats, settings, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_tasks import config
from moe_tasks.errors import UserError
from tests.tasks.folder_files import WRITE, build, cache_files, free, jsonl, labelled, parquet, put


@pytest.mark.parametrize("layout", ["qa.{}.{}", "qa/{}.{}"])
@pytest.mark.parametrize("kind", WRITE)
def test_all_formats_and_layouts_give_the_same_rows(kind: str, layout: str, tmp_path: Path) -> None:
    files = {"train": labelled(70), "dev": labelled(40, kind="d"), "test": labelled(9, kind="t")}
    for split, rows in files.items():
        put(tmp_path, layout.format(split, kind), WRITE[kind](rows))
        put(tmp_path / "plain", f"qa.{split}.jsonl", jsonl(rows))
    collection, plain = build(tmp_path), build(tmp_path / "plain")
    assert collection.rows.to_list() == plain.rows.to_list()
    assert collection.task("qa").metric == "ACC"
    assert [e.input for e in collection.examples("qa", "test", "13")] == [
        f"t {i}" for i in range(9)
    ]
    assert collection.examples("qa", "test", "13")[1].options == ("yes", "no")


@pytest.mark.parametrize("kind", WRITE)
def test_several_outputs_and_no_options(kind: str, tmp_path: Path) -> None:
    rows = [{"input": f"x {i}", "outputs": [f"a {i}", f"b {i}"]} for i in range(4)]
    put(tmp_path, f"qa.train.{kind}", WRITE[kind](rows))
    put(tmp_path, f"qa.test.{kind}", WRITE[kind](rows))
    collection = build(tmp_path)
    assert collection.task("qa").metric == "EM"
    assert [e.outputs for e in collection.examples("qa", "test", "100")] == [
        (f"a {i}", f"b {i}") for i in range(4)
    ]


def test_numbers_in_jsonl_stay_as_they_are_written(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(4)))
    put(tmp_path, "qa.test.jsonl", b'{"input": 1, "output": 3.50}\n{"input": "x", "output": 1e5}\n')
    rows = build(tmp_path).examples("qa", "test", "100")
    assert [(row.input, row.outputs) for row in rows] == [("1", ("3.50",)), ("x", ("1e5",))]


def test_csv_fields_may_be_quoted_and_hold_line_breaks(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(4)))
    put(tmp_path, "qa.test.csv", b'id,output,input\n1,"a, ""b""","line 1\nline 2"\n\n2,c,d\n')
    rows = build(tmp_path).examples("qa", "test", "100")
    assert [(row.input, row.outputs) for row in rows] == [
        ("line 1\nline 2", ('a, "b"',)),
        ("d", ("c",)),
    ]


def test_repeated_inputs_are_merged_and_noted(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(10)))
    rows = [{"input": "same", "output": o} for o in ("a", "b", "a")] + free(1, "t")
    path = put(tmp_path, "qa.test.jsonl", jsonl(rows))
    collection = build(tmp_path)
    assert [e.outputs for e in collection.examples("qa", "test", "13")] == [
        ("a", "b"),
        ("answer 0",),
    ]
    assert collection.skipped == (f"note: {path}: 2 rows repeat the input of another",)


def test_tasks_yaml_sets_what_the_defaults_do_not(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(50)))
    put(
        tmp_path,
        "num.train.csv",
        b"input,output\n" + b"".join(b"%d,%d\n" % (i, i) for i in range(9)),
    )
    put(tmp_path, "nli.train.jsonl", jsonl([{"input": f"{i}", "output": "no"} for i in range(50)]))
    put(
        tmp_path,
        "tasks.yaml",
        b"""
qa: {metric: QA-F1, category: reading, subcategory: short, instruction: Answer., role: test}
num: {metric: Pearson-Correlation, role: dev, features: {world_knowledge: false}}
nli: {options: ["yes", "no"]}
""",
    )
    collection = build(tmp_path)
    assert collection.roles == {"train": ("nli",), "dev": ("num",), "test": ("qa",)}
    qa, num, nli = (collection.task(name) for name in ("qa", "num", "nli"))
    assert (qa.metric, qa.category, qa.subcategory) == ("QA-F1", "reading", "short")
    assert qa.instruction == "Answer."
    assert num.metric == "Pearson-Correlation"
    assert num.category == "uncategorised"
    assert num.features == {"world_knowledge": False, "classification": False}
    assert (nli.metric, nli.features["classification"]) == ("ACC", True)
    assert collection.examples("nli", "train", "13")[0].options == ("yes", "no")
    assert set(build(tmp_path, tasks=["qa"]).tasks) == {"qa"}


def test_yaml_tags_are_never_executed(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(50)))
    target = tmp_path / "written"
    put(tmp_path, "tasks.yaml", f"qa: !!python/object/apply:os.mkdir ['{target}']\n".encode())
    with pytest.raises(UserError, match=r"tasks\.yaml:1: not YAML"):
        build(tmp_path)
    assert not target.exists()


BAD_LINES = {
    "not JSON": (b'{"input": "a", "output"\n', "not JSON"),
    "depth": (b"[" * 99_999 + b"\n", "not JSON"),
    "no object": (b'["a", "b"]\n', "expected {...}"),
    "no input": (b'{"inptu": "a", "output": "yes"}\n', "no 'input'; did you mean 'inptu'?"),
    "no output": (b'{"input": "a", "options": ["yes", "no"]}\n', "no 'output'"),
    "both": (
        b'{"input": "a", "output": "yes", "outputs": ["no"]}\n',
        "both 'output' and 'outputs'",
    ),
    "empty output": (b'{"input": "a", "output": " "}\n', "empty output"),
    "no outputs": (b'{"input": "a", "outputs": []}\n', "empty output"),
    "kind": (b'{"input": true, "output": "yes"}\n', "'input' is True; expected text"),
    "list": (b'{"input": "a", "outputs": "yes"}\n', "'outputs' is 'yes'; expected a list"),
    "answer": (
        b'{"input": "a", "output": "yess", "options": ["yes", "no"]}\n',
        "output 'yess' is not among the options; did you mean 'yes'?",
    ),
    "one option": (b'{"input": "a", "output": "yes", "options": ["yes"]}\n', "two or more"),
    "same options": (b'{"input": "a", "output": "b", "options": ["b", "b"]}\n', "two or more"),
    "options kind": (b'{"input": "a", "output": "b", "options": "b|c"}\n', "expected a list"),
    "option": (b'{"input": "a", "output": "b", "option": ["b", "c"]}\n', "did you mean 'options'?"),
    "no options": (b'{"input": "a", "output": "yes"}\n', "no options, but other rows"),
    "conflict": (
        b'{"input": "row 1", "output": "yes", "options": ["yes", "no"]}\n',
        "another output than line 2 for the same input",
    ),
    "NUL": (b'{"input": "a\\u0000", "output": "b"}\n', "holds a NUL"),
    "surrogate": (b'{"input": "a", "output": "\\ud800"}\n', "half a character"),
    "not UTF-8": (b'{"input": "\xff", "output": "b"}\n', "not UTF-8"),
    "1 MB": (b'{"input": "' + b"x" * 1_000_000 + b'", "output": "b"}\n', "bytes; at most"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_row_is_an_error_or_skipped_and_listed(name: str, tmp_path: Path) -> None:
    line, reason = BAD_LINES[name]
    rows = labelled(150)
    put(tmp_path, "qa.test.jsonl", jsonl(labelled(20, kind="t")))
    path = put(tmp_path, "qa.train.jsonl", jsonl(rows[:3]) + line + jsonl(rows[3:]))
    with pytest.raises(UserError) as raised:
        build(tmp_path)
    assert str(raised.value).startswith(f"{path}:4: ")
    assert reason in str(raised.value)
    assert cache_files(tmp_path) == []
    skipping = build(tmp_path, on_bad_row="skip")
    assert [s for s in skipping.skipped if "repeat the input" not in s] == [str(raised.value)]
    with pytest.raises(UserError):
        build(tmp_path)
    put(tmp_path, "qa.train.jsonl", jsonl(rows))
    assert skipping.rows.to_list() == build(tmp_path).rows.to_list()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("csv", b"input,outptu\na,b\n", r":1: header: no 'output'; did you mean 'outptu'"),
        ("csv", b"input;output\na;b\n", r":1: header: no 'input'"),
        ("csv", b"input,output,output\na,b,c\n", r":1: header: a column twice"),
        ("csv", b"input,output\na,b\nc,d,e\n", r":3: 3 columns; expected 2 \(input, output\)"),
        ("csv", b'input,output\na,"b\nc\n"\nd\n', r":5: 1 columns; expected 2"),
        ("csv", b'input,output\na,b\nc,"d\n', r":3: not CSV: unexpected end of data"),
        ("csv", b'input,output\na,b\nc,"d"e\n', r":3: not CSV: "),
        ("csv", b"input,output,options\na,b,c|d\n", r":2: output 'b' is not among the options"),
        ("tsv", b"input\toutput\na\n", r":2: 1 columns; expected 2"),
        ("csv", b"", "no usable rows"),
        ("csv", b"input,output\n", "no usable rows"),
        ("csv", b"\xef\xbb\xbfinput,output\r\na,b\r\n", "1 rows are too few"),
        ("parquet", b"PAR1 not at all", "not Parquet"),
        ("parquet", parquet([{"input": "a"}]), r":1: header: no 'output'"),
        (
            "parquet",
            parquet([{"input": [1], "output": "x"}]),
            r":1: 'input' is \[1\]; expected text",
        ),
        (
            "parquet",
            parquet([{"input": b"\xff", "output": "x"}]),
            ":1: 'input' is b.*expected text",
        ),
    ],
)
def test_a_malformed_table_is_one_message(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    put(tmp_path, f"qa.train.{name}", content)
    with pytest.raises(UserError, match=message) as raised:
        build(tmp_path)
    assert f"qa.train.{name}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (b"qaa: {metric: EM}", "no files for task 'qaa'; did you mean 'qa'"),
        (b"qa: {metrik: EM}", "unknown key 'qa.metrik'; did you mean 'metric'"),
        (b"qa: {metric: Rouge}", "qa: unknown metric 'Rouge'; did you mean 'Rouge-L'"),
        (b"qa: {role: tset}", "'qa.role' is 'tset'; did you mean 'test'"),
        (b"qa: {options: [yes, no]}", r"'qa.options\[0\]' is True; .*put words like yes"),
        (b"qa: {options: [x]}", "two or more different texts"),
        (b"qa: {category: [x]}", "'qa.category' is .*expected str"),
        (b"qa: {features: {since: 2020-01-01}}", "'features' holds what JSON cannot"),
        (b"qa: {features: {classification: 1}}", "neither true nor false"),
        (b"qa: 3", "qa: expected keys and values"),
        (b"- qa", "expected task names"),
        (b"qa:\n  metric: EM\n  metric: ACC", ":3: not YAML: key 'metric' twice"),
        (b"qa: {metric: EM", ":1: not YAML"),
        (b"\xff", "not YAML"),
        (b"[" * 5000, "not YAML"),
        (b"qa: {metric: Pearson-Correlation}", "qa.train.jsonl:1: metric Pearson-.*not a number"),
        (b"qa: {options: [a, b]}", "qa.train.jsonl:1: output 'answer 0' is not among the options"),
    ],
)
def test_a_mistake_in_tasks_yaml_is_one_message(
    settings: bytes, message: str, tmp_path: Path
) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(50)))
    put(tmp_path, "tasks.yaml", settings)
    with pytest.raises(UserError, match=message):
        build(tmp_path)
    assert cache_files(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no folder"),
        (["README.md", ".hidden.train.jsonl"], "no task files; expected <task>.train.<ext>"),
        (["qa.test.jsonl"], "task 'qa' has test but no train file"),
        (["qa.trian.jsonl"], r"expected <task>.<split>.<ext>; split did you mean 'train'"),
        (["qa/validation.jsonl"], "expected <task>.<split>.<ext>; split valid: dev, test, train"),
        (["data.csv"], "expected <task>.<split>.<ext>"),
        (["qa.train.json"], r"files of this type are not read; .*\.jsonl"),
        (["qa.train.jsonl", "qa.train.csv"], "is the train file of 'qa' already"),
        (["qa.train.jsonl", "qa/train.jsonl"], "is the train file of 'qa' already"),
        (["a..b.train.jsonl"], "task name 'a..b'"),
        (["qa.train.jsonl", "tasks.yml"], "tasks.yml: is not read; call it tasks.yaml"),
    ],
)
def test_misplaced_files_are_one_message(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        put(tmp_path, name, jsonl(free(50)))
    with pytest.raises(UserError, match=message):
        build(tmp_path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("README.md", "v1.2.txt", "qa/notes.txt", "scripts/make.py", ".git/x.csv"):
        put(tmp_path, name, b"\xff")
    put(tmp_path, "qa/train.jsonl", jsonl(free(50)))
    assert set(build(tmp_path).tasks) == {"qa"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_samples": 0}, "'num_samples' is 0"),
        ({"shots": 0}, "'shots' is 0"),
        ({"shots": "som"}, "'tasks.shots' is 'som'"),
        ({"tasks": ["qq"]}, "unknown task 'qq'"),
        ({"max_bad_share": 2}, "max_bad_share"),
        ({"path": "nowhere/at/all"}, "no folder"),
    ],
)
def test_wrong_configuration_is_one_message(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(50)))
    given = {"name": "folder", "path": str(tmp_path / "data"), "cache_dir": str(tmp_path / "c")}
    with pytest.raises(UserError, match=message):
        config.part("tasks", {**given, **values}).build()


def test_too_many_bad_rows_stop(tmp_path: Path) -> None:
    put(tmp_path, "qa.test.jsonl", jsonl(free(100, "t")))
    put(tmp_path, "qa.train.jsonl", jsonl(free(98)) + b"{}\n{}\n")
    assert len(build(tmp_path, on_bad_row="skip").skipped) == 2
    put(tmp_path, "qa.train.jsonl", jsonl(free(97)) + b"{}\n{}\n{}\n")
    with pytest.raises(
        UserError, match=r"task 'qa': 3 of 200 rows .*qa.train.jsonl:98: no 'input'"
    ):
        build(tmp_path, on_bad_row="skip")


def test_the_cache_follows_content_settings_and_draw(tmp_path: Path) -> None:
    put(tmp_path, "qa.train.jsonl", jsonl(free(50)))
    first = build(tmp_path)
    assert build(tmp_path).rows.to_list() == first.rows.to_list()
    assert build(tmp_path).skipped == first.skipped != ()
    assert len(cache_files(tmp_path)) == 1
    build(tmp_path, shots=2)
    put(tmp_path, "tasks.yaml", b"qa: {metric: QA-F1}")
    assert build(tmp_path).task("qa").metric == "QA-F1"
    put(tmp_path, "qa.train.jsonl", jsonl(free(49)))
    build(tmp_path)
    assert len(cache_files(tmp_path)) == 4
