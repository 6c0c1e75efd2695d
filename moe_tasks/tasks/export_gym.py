"""Any task collection written out in the gym's layout (see ``moe_tasks.tasks.gym``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import SPLITS, Example, Task, TaskCollection
from moe_tasks.tasks.reading import check_task_name
from moe_tasks.tasks.shots import IN_ALL, PER_CLASS
from moe_tasks.training.files import new_folder


def write_gym(collection: TaskCollection, path: str | Path) -> Path:
    """Write tasks, few-shot samples and roles to a new folder; returns it.

    The gym reader gives back equal tasks, roles, samples, inputs and outputs. The layout has no
    place for a row's own options (a choice lists them in its input), nor for samples that
    ``collection.samples`` does not name. The folder appears whole or not at all.

    Raises:
        UserError: the folder holds something already or cannot be written, or a name or text
            does not fit into the layout.
    """
    with new_folder(path) as aside:
        _write(collection, aside)
    return Path(path)


def _write(collection: TaskCollection, folder: Path) -> None:
    for sample in collection.samples:
        if not sample or "_" in sample or "/" in sample or len(sample.split()) != 1:
            raise UserError(f"sample name {sample!r} does not fit into a file name of the gym")
    entries, ontology = {}, {}
    for name, task in sorted(collection.tasks.items()):
        check_task_name(name, folder.name)
        entries[name] = _entry(task, _write_rows(collection, task, folder / name))
        subcategories = ontology.setdefault(task.category, {})
        subcategories.setdefault(task.subcategory, []).append(name)
    _write_json(folder / "tasks.json", entries)
    _write_json(folder / "ontology.json", ontology)
    (folder / "splits").mkdir()
    roles = {role: list(collection.roles[role]) for role in SPLITS}
    _write_json(folder / "splits" / "random.json", roles)


def _write_rows(collection: TaskCollection, task: Task, folder: Path) -> list[str]:
    """Write the files of one task; returns the options that all its examples share."""
    folder.mkdir()
    shared: set[tuple[str, ...]] = set()
    for sample in collection.samples:
        for split in SPLITS:
            examples = collection.examples(task.name, split, sample)
            path = folder / f"{task.name}_{_shots(task)}_{sample}_{split}.tsv"
            path.write_bytes("".join(_line(example, path) for example in examples).encode())
            shared |= {example.options for example in examples}
    return list(shared.pop()) if len(shared) == 1 else []


def _shots(task: Task) -> int:
    k = task.features.get("k")
    if isinstance(k, int) and k > 0:
        return k
    return PER_CLASS if task.features.get("classification") else IN_ALL


def _line(example: Example, path: Path) -> str:
    fields = (example.input, *example.outputs)
    for field in fields:
        if field != field.strip() or not field or any(c in field for c in "\t\n\r\0"):
            raise UserError(f"{path.name}: {field[:80]!r} does not fit into a field of the gym")
    return "\t".join(fields) + "\n"


def _entry(task: Task, labels: list[str]) -> dict[str, Any]:
    own: dict[str, Any] = {
        "metric": task.metric,
        "category": task.category,
        "subcategory": task.subcategory,
        "instruction": task.instruction,
    }
    return {**task.features, **own, **({"labels": labels} if labels else {})}


def _write_json(path: Path, content: Any) -> None:
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path.name}: task features must be what JSON can hold: {error}") from None
    path.write_bytes((text + "\n").encode())
