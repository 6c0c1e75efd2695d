"""``tasks=bigbench``: BIG-bench's JSON files and rows with the columns of the hub's copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moe_tasks.errors import UserError
from moe_tasks.tasks.bigbench import BigBenchTasks
from moe_tasks.tasks.prompted_task import PromptedCollection
from tests.tasks.prompted_files import write_rows

CHOICE = {
    "name": "fur",
    "description": "Tell which animal has fur {no joke}.",
    "keywords": ["common sense", "multiple choice"],
    "metrics": ["multiple_choice_grade"],
    "preferred_score": "multiple_choice_grade",
    "examples": [
        {"input": "Who has fur?", "target_scores": {"a cat": 1, "a fish": 0, "a fly": 0}},
        {"input": "Who has none?", "target_scores": {"a cat": 0, "a fish": 0.5, "a fly": 0.5}},
    ],
}
OPEN = {
    "description": "Add.",
    "metrics": ["exact_str_match"],
    "preferred_score": "exact_str_match",
    "task_prefix": "Sums. ",
    "example_input_prefix": "What is ",
    "example_output_prefix": "? It is",
    "examples": [
        {"input": "1 + 1", "target": "2"},
        {"input": "2 + 1", "target": ["3", "three"]},
    ],
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def build(root: Path, **keys: Any) -> PromptedCollection:
    return BigBenchTasks(str(root), cache_dir=str(root.parent / "cache"), **keys).build()


def test_folders_subtasks_and_single_files(tmp_path: Path) -> None:
    root = tmp_path / "tasks"
    write(root / "fur" / "task.json", CHOICE)
    write(root / "sums" / "small" / "task.json", OPEN)
    write(root / "more.json", OPEN)
    collection = build(root)
    assert collection.roles["test"] == ("fur", "more", "sums-small")
    assert {task: facts.metric for task, facts in collection.tasks.items()} == {
        "fur": "ACC",
        "more": "EM",
        "sums-small": "EM",
    }
    assert collection.tasks["fur"].instruction == CHOICE["description"]
    assert collection.tasks["fur"].subcategory == "common sense"
    assert build(root, tasks=["more"]).roles["test"] == ("more",)
    with pytest.raises(UserError, match="unknown task 'furr'; did you mean 'fur'"):
        build(root, tasks=["furr"])


def test_options_and_their_scores(tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "fur" / "task.json", CHOICE)
    task = build(tmp_path / "tasks").prompted["fur"]
    asked, named, described = (task.worded("test", template) for template in task.templates)
    assert [example.outputs for example in asked] == [("a cat",), ("a fish", "a fly")]
    for example in asked:
        assert sorted(example.options) == ["a cat", "a fish", "a fly"]
        listed = "".join(f"\n  choice: {option}" for option in example.options)
        assert example.input.startswith("Q: Who has")
        assert example.input.endswith(f"?{listed}\nA:")
    assert named[0].input == f"fur: \n{asked[0].input}"
    assert described[0].input == f"{CHOICE['description']} \n{asked[0].input}"
    plain = {**CHOICE, "append_choices_to_input": False}
    write(tmp_path / "tasks" / "fur" / "task.json", plain)
    task = build(tmp_path / "tasks").prompted["fur"]
    assert task.worded("test", task.templates[0])[0].input == "Q: Who has fur?\nA:"


def test_open_answers_and_prefixes(tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "sums" / "task.json", OPEN)
    task = build(tmp_path / "tasks").prompted["sums"]
    first, second = task.worded("test", task.templates[0])
    assert first.input == "Sums. What is 1 + 1? It is"
    assert (first.outputs, second.outputs) == (("2",), ("3", "three"))
    assert first.options == ()


@pytest.mark.parametrize("preferred", ["multiple_choice_grade", "exact_str_match"])
def test_of_options_and_answers_the_preferred_count(preferred: str, tmp_path: Path) -> None:
    both = [{"target": "a cat", **example} for example in CHOICE["examples"]]
    facts = {**CHOICE, "preferred_score": preferred, "metrics": [preferred], "examples": both}
    write(tmp_path / "tasks" / "fur" / "task.json", facts)
    collection = build(tmp_path / "tasks")
    (first, _) = collection.examples("fur", "test", "all")
    choice = preferred == "multiple_choice_grade"
    assert bool(first.options) == choice
    assert collection.tasks["fur"].metric == ("ACC" if choice else "EM")
    del facts["preferred_score"]  # then the first metric says
    write(tmp_path / "tasks" / "fur" / "task.json", facts)
    assert build(tmp_path / "tasks").tasks["fur"].metric == ("ACC" if choice else "EM")


@pytest.mark.parametrize("ext", ["jsonl", "parquet", "arrow"])
def test_rows_with_the_hubs_columns(ext: str, tmp_path: Path) -> None:
    row = {"idx": 0, "inputs": "Q: Who?\nA:", "targets": ["a cat"]}
    options = {"multiple_choice_targets": ["a dog", "a cat"], "multiple_choice_scores": [0, 1]}
    none = {"multiple_choice_targets": [], "multiple_choice_scores": []}
    write_rows(tmp_path / "tasks" / "who" / f"test.{ext}", [{**row, **options}])
    write_rows(tmp_path / "tasks" / "open" / f"test.{ext}", [{**row, **none}])
    collection = build(tmp_path / "tasks")
    (example,) = collection.prompted["who"].worded("test", collection.prompted["who"].templates[0])
    assert (example.options, example.outputs) == (("a dog", "a cat"), ("a cat",))
    (example,) = collection.prompted["open"].worded(
        "test", collection.prompted["open"].templates[0]
    )
    assert (example.options, example.outputs) == ((), ("a cat",))
    assert collection.tasks["open"].metric == "EM"


def changed(number: int, **keys: Any) -> dict[str, Any]:
    examples = [dict(example) for example in CHOICE["examples"]]
    examples[number] = {**examples[number], **keys}
    return {**CHOICE, "examples": examples}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{half", r"task\.json:1: not JSON"),
        ({"name": "x"}, r"task\.json: expected 'examples'"),
        (changed(1, input=None), r"task\.json: example 2: expected 'input', a text"),
        (changed(0, target_scores={}), r"example 1: 'target_scores': expected options"),
        (changed(1, target_scores={"a": 0, "b": 0}), r"example 2: 'target_scores': .* above 0"),
        (changed(1, target_scores={"a": "1"}), r"example 2: 'target_scores'"),
        ({**OPEN, "examples": [{"input": "1"}]}, r"example 1: expected 'target', a text or"),
    ],
)
def test_malformed_files(content: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "t" / "task.json", content)
    with pytest.raises(UserError, match=message):
        build(tmp_path / "tasks")


def test_no_folder_no_task_no_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        build(tmp_path / "tasks")
    (tmp_path / "tasks").mkdir()
    with pytest.raises(UserError, match=r"no task; expected <task>/task\.json"):
        build(tmp_path / "tasks")
    with pytest.raises(UserError, match="task 'code_line_description': hub data set tasksource/"):
        BigBenchTasks(cache_dir=str(tmp_path)).build()
