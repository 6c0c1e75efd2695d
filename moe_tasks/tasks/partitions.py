"""CrossFit's published task partitions, and which of their tasks a gym folder has.

    python -m moe_tasks.tasks.partitions DIR [--missing FILE]

``partitions.txt`` has a line per task of the gym's 160: its role in each of the eight partitions,
in the order of :data:`PARTITIONS`, and its name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.base import SPLITS, Split
from moe_tasks.training.files import write_text

# Our name -> the published file's (dataloader/custom_tasks_splits of github.com/INK-USC/CrossFit).
PARTITIONS = {
    "random": "random",
    "classification": "train_classification_test_classification",
    "nonclassification": "train_nonclassification_test_classification",
    "half_half": "train_halfhalf_test_classification",
    "non_nli": "train_non_nli_test_nli",
    "non_paraphrase": "train_nonparaphrase_classification_test_paraphrase",
    "non_mrc": "train_non_mrc_qa_test_mrc",
    "non_multiple_choice": "train_non_multiple_choice_qa_test_multiple_choice",
}
_ROLES: dict[str, tuple[Split, ...]] = {
    "t": ("train",), "d": ("dev",), "e": ("test",), "b": ("train", "dev"), "-": ()
}  # fmt: skip


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        name: key of :data:`PARTITIONS`.
        lists: role -> task names, sorted, exactly the published members.
    """

    name: str
    lists: Mapping[Split, tuple[str, ...]]

    def roles(self) -> dict[Split, list[str]]:
        """The lists as a run can use them, each task in one role.

        Where nothing is published as test, the held-out tasks are those in ``dev``: they are test
        tasks here. A task that is published both as train and as held out (``sick`` in
        ``non_nli``) is held out.
        """
        train, dev, test = (list(self.lists[role]) for role in SPLITS)
        held_out = {*dev, *test}
        train = [task for task in train if task not in held_out]
        return {"train": train, "dev": dev if test else [], "test": test or dev}


def partition(name: str) -> Partition:
    """The partition of that name, ours or the published file's without ``.json``.

    Raises:
        UserError: there is no such partition.
    """
    for place, names in enumerate(PARTITIONS.items()):
        if name in names:
            members: dict[Split, tuple[str, ...]] = {
                role: tuple(task for task, letters in _table() if role in _ROLES[letters[place]])
                for role in SPLITS
            }
            return Partition(names[0], members)
    raise UserError(f"unknown partition {name!r}; {nearest(name, PARTITIONS)}")


def is_partition(name: str) -> bool:
    """Whether :func:`partition` knows the name."""
    return name in PARTITIONS or name in PARTITIONS.values()


def all_tasks() -> list[str]:
    """The gym's 160 task names, sorted."""
    return [task for task, _ in _table()]


@cache
def _table() -> list[tuple[str, str]]:
    text = resources.files("moe_tasks.tasks").joinpath("partitions.txt").read_text("utf-8")
    return [(task, letters) for letters, task in map(str.split, text.splitlines())]


def has_task(root: Path, task: str) -> bool:
    """Whether a gym folder has any training file of the task."""
    return any((root / task).glob(f"{task}_*_train.tsv"))


def check(root: Path) -> tuple[str, list[str]]:
    """A table of how many tasks of each partition and role a gym folder has; the missing tasks."""
    present = {task for task in all_tasks() if has_task(root, task)}
    rows = [["partition", *SPLITS]]
    for name in PARTITIONS:
        lists = partition(name).lists
        counts = (f"{len(present & set(lists[role]))}/{len(lists[role])}" for role in SPLITS)
        rows.append([name, *counts])
    lines = [f"{row[0]:21}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]
    return "\n".join(lines), [task for task in all_tasks() if task not in present]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m moe_tasks.tasks.partitions",
        description="How many tasks of CrossFit's eight published partitions a gym folder has.",
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder in the gym's layout")
    parser.add_argument(
        "--missing", metavar="FILE", type=Path, help="write the missing names, one a line"
    )
    options = parser.parse_args(arguments)
    try:
        return _report(options.dir, options.missing)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _report(root: Path, file: Path | None) -> int:
    if not root.is_dir():
        raise UserError(f"no folder {root}")
    table, missing = check(root)
    print(f"{table}\n{len(missing)} of {len(all_tasks())} tasks are missing", end="")
    if file is not None:
        write_text(file, "".join(f"{task}\n" for task in missing))
        print(f": {file}", end="")
    elif missing:
        print("; --missing FILE writes their names", end="")
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
