"""What lies in the folder of ``tasks=prompted``.

Either a folder per task::

    <task>/templates.yaml                         promptsource's format, or ours (template_files)
    <task>/{train,dev,test}.{jsonl,parquet,arrow}
    tasks.yaml                                    what differs, per task: see ``TaskSettings``

or relations (``prompted_relations``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import SPLITS, Split
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.prompted_relations import RELATIONS, read_relations
from moe_tasks.tasks.prompted_settings import TaskSettings, read_settings, task_facts
from moe_tasks.tasks.prompted_task import Pools, PromptedTask
from moe_tasks.tasks.raw_rows import SUFFIXES, HubRows, read_raw_rows
from moe_tasks.tasks.reading import check_task_name
from moe_tasks.tasks.template_files import make_templates, read_templates
from moe_tasks.tasks.templates import Template

SETTINGS, TEMPLATES = "tasks.yaml", "templates.yaml"


def read_folder(root: Path, max_options: int, limit: int | None) -> list[PromptedTask]:
    """The tasks of a folder, sorted by name, with the roles that the folder gives them.

    Args:
        max_options: relations with at most so many different answers have them as options.
        limit: rows read per file.

    Raises:
        UserError: something is missing or malformed; names file and task or key.
    """
    if (root / RELATIONS).exists():
        return read_relations(root, max_options, limit)
    settings = read_settings(root / SETTINGS) if (root / SETTINGS).exists() else {}
    inside = {p.name for p in root.iterdir() if p.is_dir() and (p / TEMPLATES).is_file()}
    if not inside | set(settings):
        raise UserError(f"{root}: no task; expected <task>/{TEMPLATES}, {RELATIONS} or {SETTINGS}")
    found = {name: settings.get(name, TaskSettings()) for name in inside | set(settings)}
    return [read_task(root, name, found[name], limit) for name in sorted(found)]


def read_task(
    root: Path | None, name: str, settings: TaskSettings, limit: int | None
) -> PromptedTask:
    """One task whose files lie in ``root``, or else on the hub.

    Raises:
        UserError: it has no templates, or no rows.
    """
    check_task_name(name, root or "tasks")
    templates = _templates(root, name, settings)
    files = _files(root, name, settings) if root else {}
    if root and files:
        read, rows = partial(_file_rows, files, limit), content_hash(files.values(), root)
    elif settings.hub is not None:
        where = f"{root or 'a folder, tasks.path=DIR, as DIR'}/{name}"
        read, rows = partial(_hub_rows, name, where, settings.hub, limit), ""
    else:
        ways = f"{name}/<split>.<ext> (ext {', '.join(SUFFIXES)}) or keys in {SETTINGS}"
        raise UserError(f"{root}: task {name!r} has no rows; expected {ways}")
    wordings = [[t.name, t.source, t.answer_choices] for t in templates]
    origin = [rows, asdict(settings), wordings, limit]
    facts = task_facts(name, templates, settings)
    return PromptedTask(facts, templates, read, settings.role, origin)


def _templates(root: Path | None, name: str, settings: TaskSettings) -> tuple[Template, ...]:
    own = settings.templates
    file = (root or Path()) / (own if isinstance(own, str) else f"{name}/{TEMPLATES}")
    if root and file.is_file():
        return read_templates(file)
    if isinstance(own, dict):
        return make_templates(own, Path(name))
    raise UserError(f"{root}: task {name!r} has no templates; expected {file}")


def _files(root: Path, name: str, settings: TaskSettings) -> dict[Split, Path]:
    files: dict[Split, Path] = {}
    for split in SPLITS:
        given = getattr(settings, split)
        found = [path for s in SUFFIXES if (path := root / name / f"{split}{s}").is_file()]
        if given is not None:
            files[split] = root / given
            if files[split].suffix not in SUFFIXES or not files[split].is_file():
                raise UserError(f"{files[split]}: no such file of type {', '.join(SUFFIXES)}")
        elif len(found) > 1:
            raise UserError(f"{found[0]}: {found[1].name} is the {split} file of {name!r} too")
        elif found:
            files[split] = found[0]
    return files


def _file_rows(files: Mapping[Split, Path], limit: int | None) -> Pools:
    return {split: read_raw_rows(path, limit) for split, path in files.items()}


def _hub_rows(name: str, where: str, hub: HubRows, limit: int | None) -> Pools:
    try:
        return {split: hub.read(split, limit) for split in SPLITS if split in hub.splits}
    except UserError as error:
        files = " and ".join(f"{split}.jsonl" for split in SPLITS if split in hub.splits)
        raise UserError(
            f"task {name!r}: {error}; put rows with its columns into {where}/{files} (or .parquet, "
            ".arrow), or choose other tasks with tasks.tasks"
        ) from error
