"""Which tasks of a gym folder are train, dev and test tasks: its own split files, or CrossFit's
published partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.base import SPLITS, Split
from moe_tasks.tasks.partitions import PARTITIONS, is_partition, partition
from moe_tasks.tasks.reading import check_task_name, choose, read_json

OnMissing = Literal["error", "skip"]
Roles = dict[Split, list[str]]
_SHOWN = 5


def read_roles(
    root: Path, split: str, wanted: Sequence[str] | None, missing: OnMissing
) -> tuple[Roles, list[str]]:
    """Tasks by role, and remarks on what was left out.

    Args:
        split: a file ``splits/<split>.json`` in ``root``, a path that ends in ``.json``, or else
            a published partition.
        wanted: which of the tasks; all when None.
        missing: what to do about tasks that have no folder in ``root``.

    Raises:
        UserError: no such split, a wrong file, or missing tasks.
    """
    path = _split_file(root, split)
    roles = partition(split).roles() if path is None else _read_file(path)
    chosen = set(choose("task", wanted, [task for role in SPLITS for task in roles[role]]))
    roles = _only(roles, chosen)
    lacking = [t for role in SPLITS for t in roles[role] if not (root / t).is_dir()]
    if not lacking or (missing == "error" and path is not None):
        return roles, []  # a file of the user's own: the reader names the nearest folder
    share = f"{len(lacking)} of {len(chosen)} tasks of split {split!r}"
    if missing == "error":
        more = ", ..." if len(lacking) > _SHOWN else ""
        raise UserError(
            f"{root} lacks {share}: {', '.join(lacking[:_SHOWN])}{more}. tasks.missing=skip leaves "
            f"them out; python -m moe_tasks.tasks.partitions {root} says what is there"
        )
    if len(lacking) == len(chosen):
        raise UserError(f"{root} has none of the tasks of split {split!r}")
    remark = f"note: {root} lacks {share}, which were left out: {', '.join(lacking)}"
    return _only(roles, chosen.difference(lacking)), [remark]


def _only(roles: Mapping[Split, Sequence[str]], kept: set[str]) -> Roles:
    return {role: [task for task in roles[role] if task in kept] for role in SPLITS}


def _split_file(root: Path, split: str) -> Path | None:
    if split.endswith(".json"):
        return Path(split)
    path = root / "splits" / f"{split}.json"
    known = [p.stem for p in path.parent.glob("*.json")]
    if split in known:
        return path
    if is_partition(split):
        return None
    raise UserError(
        f"unknown split {split!r} (no file {path}); {nearest(split, [*known, *PARTITIONS])}"
    )


def _read_file(path: Path) -> Roles:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected train, dev and test, each with a list of tasks")
    for role in content:
        if role not in (*SPLITS, "all"):  # CrossFit's own files also list all tasks together
            raise UserError(f"{path}: unknown key {role!r}; {nearest(role, SPLITS)}")
    roles: Roles = {}
    seen: dict[str, str] = {}
    for role in SPLITS:
        members = content.get(role, [])
        if not isinstance(members, list) or not all(isinstance(task, str) for task in members):
            raise UserError(f"{path}: {role!r} is no list of task names")
        for task in members:
            check_task_name(task, path)
            if task in seen:
                raise UserError(f"{path}: task {task!r} is in {seen[task]!r} and in {role!r}")
            seen[task] = role
        roles[role] = members
    if not seen:
        raise UserError(f"{path}: names no task")
    return roles
