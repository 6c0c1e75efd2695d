"""CrossFit's partitions: their members, gym folders read by them, folders checked against them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import SPLITS
from moe_tasks.tasks.gym import GymTasks
from moe_tasks.tasks.partitions import PARTITIONS, all_tasks, main, partition
from tests.tasks.gym_files import entry, gym, write_gym

# Members per role in the published files.
SIZES = {
    "random": (120, 20, 20),
    "classification": (45, 10, 10),
    "nonclassification": (45, 10, 10),
    "half_half": (45, 10, 10),
    "non_nli": (57, 8, 0),
    "non_paraphrase": (61, 4, 0),
    "non_mrc": (42, 9, 0),
    "non_multiple_choice": (29, 22, 0),
}


@pytest.mark.parametrize("name", SIZES)
def test_lists_have_the_published_sizes(name: str) -> None:
    lists = partition(name).lists
    assert tuple(len(lists[role]) for role in SPLITS) == SIZES[name]
    assert set().union(*lists.values()) <= set(all_tasks())
    assert partition(PARTITIONS[name]) == partition(name)


def test_some_published_members() -> None:
    assert len(all_tasks()) == len(set(all_tasks())) == 160
    random, nli = partition("random").lists, partition("non_nli").lists
    assert {"glue-mrpc", "math_qa"} <= set(random["train"])
    assert {"cos_e", "kilt_fever"} <= set(random["dev"])
    assert {"quoref", "ethos-disability"} <= set(random["test"])
    assert nli["dev"] == (
        "anli", "glue-mnli", "glue-qnli", "glue-rte", "glue-wnli", "scitail", "sick", "superglue-cb"
    )  # fmt: skip
    tests = [partition(n).lists["test"] for n in ("classification", "nonclassification")]
    assert tests == [partition("half_half").lists["test"]] * 2


@pytest.mark.parametrize("name", SIZES)
def test_roles_of_a_run_are_disjoint_and_have_tests(name: str) -> None:
    found, roles = partition(name), partition(name).roles()
    members = [task for role in SPLITS for task in roles[role]]
    assert len(members) == len(set(members))
    assert set(members) == set().union(*found.lists.values())
    assert roles["train"]
    assert set(roles["test"]) == set(found.lists["test"] or found.lists["dev"])


def test_an_unknown_partition_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown partition 'non_nil'; did you mean 'non_nli'"):
        partition("non_nil")


def _folder_of(name: str, root: Path, leave_out: set[str] = frozenset()) -> Path:  # type: ignore[assignment]
    roles = partition(name).roles()
    names = [task for role in SPLITS for task in roles[role] if task not in leave_out]
    write_gym(root, {task: entry() for task in names}, count=1)
    (root / "splits" / "random.json").unlink()
    return root


def test_a_folder_without_split_file_is_read_by_a_partition(tmp_path: Path) -> None:
    root = _folder_of("non_nli", tmp_path / "gym")
    collection = gym(root, split="non_nli", samples=["13"]).build()
    roles = partition("non_nli").roles()
    assert {role: list(collection.roles[role]) for role in SPLITS} == roles
    assert len(roles["test"]) == 8
    assert "sick" in roles["test"]
    assert collection.skipped == ()


def test_missing_tasks_are_counted_named_or_left_out(tmp_path: Path) -> None:
    absent = {"anli", "sick", "amazon_polarity", "emotion", "trec", "yelp_polarity", "wiki_qa"}
    root = _folder_of("non_nli", tmp_path / "gym", absent)
    with pytest.raises(UserError) as raised:
        gym(root, split="non_nli").build()
    message = str(raised.value)
    assert "lacks 7 of 64 tasks of split 'non_nli'" in message
    assert "amazon_polarity" in message
    assert "tasks.missing=skip" in message
    collection = gym(root, split="non_nli", missing="skip", samples=["13"]).build()
    assert not absent & set(collection.tasks)
    assert len(collection.tasks) == 64 - 7
    (remark,) = collection.skipped
    assert remark.startswith("note: ")
    assert all(task in remark for task in absent)
    chosen = gym(root, split="non_nli", tasks=["ag_news", "scitail"], samples=["13"]).build()
    assert set(chosen.tasks) == {"ag_news", "scitail"}  # nothing that was asked for is missing


def test_a_folder_with_no_task_of_a_partition(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"mine": entry()})
    with pytest.raises(UserError, match="none of the tasks of split 'non_mrc'"):
        gym(root, split="non_mrc", missing="skip").build()


def test_the_folders_own_split_wins(tmp_path: Path) -> None:
    root = write_gym(tmp_path / "gym", {"mine": entry(), "boolq": entry()})
    assert set(gym(root).build().tasks) == {"mine", "boolq"}  # splits/random.json
    roles = {"all": ["mine", "gone"], "train": ["mine"], "test": ["gone"]}
    (root / "splits" / "random.json").write_text(json.dumps(roles))  # "all" as in CrossFit's files
    with pytest.raises(UserError, match="no entry for task 'gone'"):
        gym(root).build()
    collection = gym(root, missing="skip").build()
    assert set(collection.tasks) == {"mine"}
    assert "lacks 1 of 2 tasks of split 'random'" in collection.skipped[0]
    with pytest.raises(UserError, match=r"unknown split 'non_nil'.*'non_nli'"):
        gym(root, split="non_nil").build()


def test_the_command_counts_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _folder_of("random", tmp_path / "gym", {"quoref", "cos_e", "boolq"})
    assert main([str(root), "--missing", str(tmp_path / "missing.txt")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["random", "119/120", "19/20", "19/20"] in lines
    assert ["non_mrc", "41/42", "8/9", "0/0"] in lines
    assert len(lines) == 10
    assert (tmp_path / "missing.txt").read_text().split() == ["boolq", "cos_e", "quoref"]
    assert main([str(tmp_path / "gim")]) == 2
    assert capsys.readouterr().err.startswith("error: no folder")


def test_the_real_gym(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shared / "data" / "gym"
    assert main([str(root)]) == 0
    counted = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:9])
    assert counted["random"].endswith("/120")
    keys = {"path": str(root), "cache_dir": str(tmp_path), "samples": ["100"]}
    with pytest.raises(UserError, match=r"lacks \d+ of 65 tasks of split 'classification'"):
        GymTasks(split="classification", **keys).build()
    collection = GymTasks(split="classification", missing="skip", **keys).build()
    assert f"{len(collection.roles['train'])}/45" == counted["classification"]


def test_the_data_travels_in_the_wheel() -> None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    setuptools = tomllib.loads(project.read_text())["tool"]["setuptools"]
    folder = project.parent / "moe_tasks" / "tasks"
    data = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert set(setuptools["package-data"]["moe_tasks.tasks"]) == data
    assert "moe_tasks.importing" in setuptools["packages"]
