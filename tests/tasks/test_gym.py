"""Reading the gym's layout: real tasks, bad rows, wrong names, the cache."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from moe_tasks import config
from moe_tasks.errors import UserError
from moe_tasks.tasks.base import SPLITS, TaskCollection
from moe_tasks.tasks.gym import GymTasks
from moe_tasks.tasks.reading import MAX_TEXT, check_task_name
from tests.tasks.gym_files import cache_files, entry, files_and_times, gym, lines_of, write_gym

YES_NO = entry("ACC", labels=["yes", "no"], classification=True)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskCollection:
    cache = tmp_path_factory.mktemp("cache")
    return GymTasks(str(shared / "data" / "gym"), cache_dir=str(cache)).build()


def test_real_gym_has_all_tasks_and_roles(real: TaskCollection) -> None:
    assert len(real.tasks) == 109
    assert {role: len(tasks) for role, tasks in real.roles.items()} == {
        "train": 81,
        "dev": 9,
        "test": 19,
    }
    assert real.samples == ("100", "13", "21", "42", "87")
    assert real.skipped == ()


def test_real_gym_sizes_are_those_of_tasks_json(real: TaskCollection, shared: Path) -> None:
    known = json.loads((shared / "data/gym/tasks.json").read_text())
    for name, own in known.items():
        assert real.task(name).metric == own["metric"]
        assert real.task(name).category == own["category"]
        assert real.task(name).features["world_knowledge"] is own["world_knowledge"]
        for sample in real.samples:
            sizes = {split: len(real.slice(name, split, sample)) for split in SPLITS}
            assert sizes == {split: own[split] for split in SPLITS}, (name, sample)


def test_real_gym_rows_are_the_lines_of_the_files(real: TaskCollection, shared: Path) -> None:
    for name in ("asset", "glue-cola", "fv-english-french"):
        k = 16 if name == "glue-cola" else 32
        path = shared / f"data/gym/{name}/{name}_{k}_42_test.tsv"
        naive = [line.split("\t") for line in path.read_text("utf-8").rstrip("\n").split("\n")]
        examples = real.examples(name, "test", "42")
        assert [e.input for e in examples] == [columns[0] for columns in naive]
        assert [list(e.outputs) for e in examples] == [
            list(dict.fromkeys(columns[1:])) for columns in naive
        ]
    assert real.examples("glue-cola", "dev", "87")[0].options == ("acceptable", "unacceptable")


def test_real_gym_is_read_from_the_cache(
    real: TaskCollection, shared: Path, tmp_path: Path
) -> None:
    source = GymTasks(str(shared / "data" / "gym"), cache_dir=str(tmp_path))
    source.build()
    before = files_and_times(tmp_path)
    assert before
    again = source.build()
    assert files_and_times(tmp_path) == before
    assert again.rows.data.table.equals(real.rows.data.table)


def test_rows_of_a_task_sample_and_split_are_one_slice(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"b": entry(), "a": YES_NO})
    collection = gym(root).build()
    keys = list(zip(*(collection.rows[c] for c in ("task", "sample", "split")), strict=True))
    assert keys == [(t, n, s) for t in "ab" for n in ("13", "21") for s in SPLITS for _ in range(4)]
    assert [e.input for e in collection.examples("b", "dev", "21")] == [
        f"dev 21 input {i}" for i in range(4)
    ]


def test_samples_and_tasks_can_be_chosen_and_come_from_a_configuration(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry(), "b": entry(), "c": entry()})
    values = {"name": "gym", "path": str(root), "samples": [21], "tasks": ["c", "a"]}
    collection = config.part("tasks", {**values, "cache_dir": str(tmp_path / "cache")}).build()
    assert set(collection.tasks) == {"a", "c"}
    assert collection.roles["train"] == ("a", "c")
    assert set(collection.rows["sample"]) == {"21"} == set(collection.samples)


def test_byte_order_mark_crlf_and_no_last_line_break_change_nothing(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    plain = gym(root).build().examples("a", "train", "13")
    path = root / "a" / "a_16_13_train.tsv"
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert gym(root).build().examples("a", "train", "13") == plain


def test_other_line_separators_stay_in_the_text(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    text = "one\u2028two\x85three\x0cfour"
    (root / "a" / "a_16_13_train.tsv").write_text(f"{text}\tout\n", "utf-8")
    assert gym(root).build().examples("a", "train", "13")[0].input == text


BAD_ROWS = {
    "no tab": (b"only one column\n", "1 column"),
    "blank": (b"\n", "1 column"),
    "empty input": (b" \tyes\n", "empty input"),
    "empty output": (b"input\t\n", "empty output"),
    "empty alternative": (b"input\tyes\t \n", "empty output"),
    "not UTF-8": (b"in\xffput\tyes\n", "not UTF-8"),
    "NUL": (b"in\0put\tyes\n", "NUL"),
    "carriage return": (b"in\rput\tyes\n", "carriage return"),
    "1 MB": (b"x" * (MAX_TEXT + 1) + b"\tyes\n", "1000005 bytes"),
    "label": (b"input\tyess\n", "did you mean 'yes'?"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_an_error_or_skipped_and_listed(name: str, tmp_path: Path) -> None:
    row, reason = BAD_ROWS[name]
    root = write_gym(tmp_path / "gym", {"a": YES_NO}, count=40)
    path = root / "a" / "a_16_13_train.tsv"
    before = gym(root).build().examples("a", "train", "13")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], row, *lines[2:]]))
    files = cache_files(root)

    with pytest.raises(UserError) as raised:
        gym(root).build()
    assert str(raised.value).startswith(f"{path}:3: ")
    assert reason in str(raised.value)
    assert cache_files(root) == files

    for _ in range(2):  # the second time from the cache
        collection = gym(root, on_bad_row="skip").build()
        assert collection.examples("a", "train", "13") == before
        (skipped,) = collection.skipped
        assert skipped == str(raised.value)
    with pytest.raises(UserError):
        gym(root).build()


def test_a_repeated_input_is_no_bad_row(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": YES_NO})
    (root / "a" / "a_16_13_train.tsv").write_bytes(b"same\tyes\nsame\tyes\n")
    assert len(gym(root).build().examples("a", "train", "13")) == 2


@pytest.mark.parametrize(("num_bad", "fails"), [(2, False), (3, True)])
def test_more_than_one_percent_bad_rows_of_a_task_stop(
    num_bad: int, fails: bool, tmp_path: Path
) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry(), "b": entry()})
    for sample in ("13", "21"):
        for split in SPLITS:
            count = 200 - 5 * 4 if (sample, split) == ("13", "test") else 4
            rows = lines_of(split, sample, ("x",), count)
            (root / "a" / f"a_16_{sample}_{split}.tsv").write_bytes(rows)
    path = root / "a" / "a_16_13_test.tsv"
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"no tab\n" * num_bad + b"".join(rows[num_bad:]))  # 200 rows in all
    if fails:
        with pytest.raises(UserError, match=r"task 'a': 3 of 200 rows .*a_16_13_test.tsv:1: "):
            gym(root, on_bad_row="skip").build()
        assert cache_files(root) == []
    else:
        assert len(gym(root, on_bad_row="skip").build().skipped) == num_bad


def test_a_file_without_usable_rows_is_an_error(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    path = root / "a" / "a_16_13_dev.tsv"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"a_16_13_dev\.tsv: no usable rows"):
        gym(root).build()
    path.write_bytes(b"bad\nbad\n")
    with pytest.raises(UserError, match=r"a_16_13_dev\.tsv: no usable rows"):
        gym(root, on_bad_row="skip", max_bad_share=0.5).build()


@pytest.mark.parametrize(
    ("metric", "outputs", "line", "reason"),
    [
        ("Pearson-Correlation", b"1.5 2 much 3", 3, "'much' is not a number"),
        ("Pearson-Correlation", b"1 nan 2 3", 2, "'nan' is not a number"),
        ("Matthew-Correlation", b"yes no yes perhaps", 4, "'perhaps' is a third label"),
    ],
)
def test_a_metric_that_does_not_fit_is_a_bad_row(
    metric: str, outputs: bytes, line: int, reason: str, tmp_path: Path
) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry(metric, labels=["1", "2"])})
    (root / "tasks.json").write_text(json.dumps({"a": entry(metric)}))
    path = root / "a" / "a_16_13_train.tsv"
    path.write_bytes(b"".join(b"input\t%b\n" % output for output in outputs.split()))
    with pytest.raises(UserError, match=f"{path}:{line}: metric {metric}: .*{reason}"):
        gym(root).build()


def _without_folder(root: Path) -> dict[str, Any]:
    return {"path": str(root.parent / "gim")}


def _edit(file: str, **changes: Any) -> Any:
    def change(root: Path) -> dict[str, Any]:
        path = root / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return {}

    return change


def _write(file: str, content: bytes) -> Any:
    def change(root: Path) -> dict[str, Any]:
        (root / file).write_bytes(content)
        return {}

    return change


def _remove(file: str) -> Any:
    def change(root: Path) -> dict[str, Any]:
        (root / file).unlink()
        return {}

    return change


MISTAKES: dict[str, tuple[Any, str]] = {
    "folder": (_without_folder, "no folder .*gim'; did you mean 'gym'"),
    "split": (lambda _: {"split": "randon"}, "unknown split 'randon'.*did you mean 'random'"),
    "split file": (lambda _: {"split": "other.json"}, "other.json: cannot be read: No such file"),
    "task": (lambda _: {"tasks": ["alpa"]}, "unknown task 'alpa'; did you mean 'alpha'"),
    "no task": (lambda _: {"tasks": []}, "'tasks' is .*at least one"),
    "sample": (lambda _: {"samples": ["12"]}, "unknown sample '12'; did you mean '21'"),
    "sample twice": (lambda _: {"samples": ["13", "13"]}, "expected different names"),
    "tasks.json": (_remove("tasks.json"), 'no file .*tasks.json.*expected .*"metric": "ACC"'),
    "tasks.json syntax": (_write("tasks.json", b'{\n"alpha": }'), "tasks.json:2: not JSON"),
    "tasks.json twice": (_write("tasks.json", b'{"a": 1, "a": 2}'), "key 'a' twice"),
    "tasks.json bytes": (_write("tasks.json", b"\xff\xfe"), "tasks.json: not JSON"),
    "tasks.json depth": (_write("tasks.json", b"[" * 99_999), "tasks.json: not JSON"),
    "tasks.json list": (_write("tasks.json", b"[]"), "tasks.json: expected"),
    "entry": (_write("tasks.json", b'{"alpa": {}}'), "no entry for task 'alpha'.*'alpa'"),
    "entry kind": (_edit("tasks.json", alpha=3), "task 'alpha' has no 'metric'"),
    "no metric": (_edit("tasks.json", alpha={"metrik": "EM"}), "did you mean 'metrik'"),
    "metric": (_edit("tasks.json", alpha=entry("Rouge")), "metric 'Rouge'; .*'Rouge-L'"),
    "category": (_edit("tasks.json", alpha=entry(category=1)), "'category' is 1; expected text"),
    "one label": (_edit("tasks.json", alpha=entry(labels=["x"])), "'labels' is .*two or more"),
    "half a character": (
        _edit("tasks.json", alpha=entry(labels=["x", "\ud800"])),
        "'labels' is .*two or more",
    ),
    "ontology": (
        _write("ontology.json", b'{"other": {"thing": ["alpha"]}}'),
        "category 'some', by ontology.json in 'other'",
    ),
    "ontology shape": (_write("ontology.json", b'{"other": ["alpha"]}'), "ontology.json: expected"),
    "role": (_edit("splits/random.json", trian=[]), "unknown key 'trian'; did you mean 'train'"),
    "two roles": (_edit("splits/random.json", dev=["beta"]), "'beta' is in 'train' and in 'dev'"),
    "no task in split": (_write("splits/random.json", b"{}"), "random.json: names no task"),
    "role list": (_edit("splits/random.json", dev="beta"), "'dev' is no list"),
    "task folder": (_edit("splits/random.json", dev=["bta"]), "no entry for task 'bta'.*'beta'"),
    "file": (_remove("alpha/alpha_16_21_dev.tsv"), "alpha: no file alpha_<k>_21_dev.tsv"),
    "file name": (_write("alpha/alpha_16_21_dve.tsv", b""), "expected a name like"),
    "file twice": (_write("alpha/alpha_32_21_dev.tsv", b""), "same sample and split"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_with_the_nearest_name(name: str, tmp_path: Path) -> None:
    change, message = MISTAKES[name]
    root = write_gym(tmp_path / "gym", {"alpha": entry(), "beta": entry()})
    keys = {"path": str(root), "cache_dir": str(tmp_path / "cache"), **change(root)}
    with pytest.raises(UserError, match=message) as raised:
        GymTasks(**keys).build()
    assert "\n" not in str(raised.value)
    assert cache_files(root) == []


def test_a_missing_task_folder_names_the_nearest(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"alpha": entry(), "beta": entry()})
    (root / "alpha").rename(root / "alpha2")
    with pytest.raises(UserError, match=r"no folder .*alpha; did you mean 'alpha2'"):
        gym(root).build()


def test_the_ontology_gives_a_category_that_is_missing(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": {"metric": "EM"}, "b": {"metric": "EM"}})
    (root / "ontology.json").write_text('{"one": {"two": ["a"]}}')
    tasks = gym(root).build().tasks
    assert (tasks["a"].category, tasks["a"].subcategory) == ("one", "two")
    assert (tasks["b"].category, tasks["b"].subcategory) == ("uncategorised", "")


@pytest.mark.parametrize(
    "name",
    ["", " a", "../x", "a/b", "a\\b", "/abs", "..", "a..b", ".hidden", "a\0b", "a\nb", "x" * 201],
)
def test_task_names_that_could_leave_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task name"):
        check_task_name(name, "here")
    root = write_gym(tmp_path / "gym", {"a": entry()})
    (root / "splits" / "random.json").write_text(json.dumps({"train": ["a", name]}))
    with pytest.raises(UserError, match=r"random\.json: task name"):
        gym(root).build()


@pytest.mark.parametrize(
    "name", ["a", "tweet_eval-stance_abortion", "Frage Größe", "a.b", "x" * 200]
)
def test_ordinary_task_names_are_accepted(name: str) -> None:
    check_task_name(name, "here")


def test_wrong_configuration_is_refused(tmp_path: Path) -> None:
    for values in ({"max_bad_share": 1.0}, {"max_bad_share": -0.1}, {"on_bad_row": "skipp"}):
        with pytest.raises(UserError, match=next(iter(values))):
            config.part("tasks", {"name": "gym", "path": str(tmp_path), **values})


def test_the_cache_sees_a_change_that_size_and_time_hide(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    gym(root).build()
    path = root / "a" / "a_16_13_train.tsv"
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b"input 0", b"input 9"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert gym(root).build().examples("a", "train", "13")[0].input == "train 13 input 9"
    assert len(cache_files(root)) == 2


def test_the_cache_is_not_written_again(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    gym(root).build()
    (file,) = cache_files(root)
    before = files_and_times(file.parent)
    gym(root).build()
    assert files_and_times(file.parent) == before


def test_several_readers_may_make_the_cache_at_once(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: gym(root).build().rows.to_list(), range(8)))
    assert all(rows == built[0] for rows in built)
    assert len(cache_files(root)) == 1


@pytest.mark.parametrize("damage", ["empty", "1 byte", "half", "all but 1", "notes", "flips"])
def test_a_damaged_cache_is_made_again(damage: str, tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": YES_NO})
    expected = gym(root).build().rows.to_list()
    (file,) = cache_files(root)
    whole = file.read_bytes()
    sizes = {"empty": 0, "1 byte": 1, "half": len(whole) // 2, "all but 1": len(whole) - 1}
    if damage == "notes":
        variants = [whole[:-20] + b"\xff" * 20]
    elif damage == "flips":
        places = range(0, len(whole), 97)
        variants = [whole[:p] + bytes([whole[p] ^ 4]) + whole[p + 1 :] for p in places]
    else:
        variants = [whole[: sizes[damage]]]
    for content in variants:
        file.unlink()  # not in place: the rows above may still be mapped
        file.write_bytes(content)
        assert gym(root).build().rows.to_list() == expected
        assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"a": entry()})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*'cache_dir'"):
        gym(root, cache_dir=str(tmp_path / "file")).build()
