"""What lies in the folder of ``tasks=prompted``.

Either a folder per task::

    <task>/templates.yaml                         promptsource's format, or ours (template_files)
    <task>/{train,dev,test}.{jsonl,parquet,arrow}
    tasks.yaml                                    what differs, per task: see ``TaskSettings``

or ``templates.json`` with ``{task: {group, metric, templates: ["... {} ..."]}}`` beside
``<task>/template<i>_test.tsv``, the same rows in every wording: input, tab, accepted outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from moe_tasks.config import from_mapping
from moe_tasks.errors import UserError, nearest
from moe_tasks.registry import names
from moe_tasks.tasks.base import SPLITS, Split, Task
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.prompted_task import Pools, PromptedTask
from moe_tasks.tasks.raw_rows import SUFFIXES, HubRows, RawRow, read_raw_rows
from moe_tasks.tasks.reading import BadRows, check_task_name, is_storable, read_json, text_lines
from moe_tasks.tasks.template_files import read_templates, read_yaml
from moe_tasks.tasks.templates import SEPARATOR, Template

_SETTINGS, _TEMPLATES, _RELATIONS = "tasks.yaml", "templates.yaml", "templates.json"
_FACTS = ("group", "examples", "templates", "metric", "category", "instruction", "role")


@dataclass(frozen=True)
class TaskSettings:
    """One entry of ``tasks.yaml``; paths are relative to the folder.

    Attributes:
        role: ``train``, ``dev`` or ``test`` *task*.
        category, subcategory, metric: see ``Task``; the metric is the templates' own when None,
            else ACC with answer options and EM without.
        instruction: one sentence that describes the task.
        templates: their file, if not ``<task>/templates.yaml``.
        train, dev, test: files of rows, if not ``<task>/<split>.<ext>``.
        hub: a data set of the hub instead of files.
    """

    role: Split = "train"
    category: str = "uncategorised"
    subcategory: str = ""
    metric: str | None = None
    instruction: str = ""
    templates: str | None = None
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    hub: HubRows | None = None
    features: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric is not None and self.metric not in names("metric"):
            known = nearest(self.metric, names("metric"))
            raise ValueError(f"unknown metric {self.metric!r}; {known}")


def read_folder(root: Path, max_options: int, limit: int | None) -> list[PromptedTask]:
    """The tasks of a folder, sorted by name, with the roles that the folder gives them.

    Args:
        max_options: relations with at most so many different answers have them as options.
        limit: rows read per file.

    Raises:
        UserError: something is missing or malformed; names file and task or key.
    """
    if (root / _RELATIONS).exists():
        return _relations(root, max_options, limit)
    settings = _settings(root)
    inside = {p.name for p in root.iterdir() if p.is_dir() and (p / _TEMPLATES).is_file()}
    if not inside | set(settings):
        raise UserError(
            f"{root}: no task; expected <task>/{_TEMPLATES}, {_RELATIONS} or {_SETTINGS}"
        )
    tasks = []
    for name in sorted(inside | set(settings)):
        check_task_name(name, root)
        tasks.append(_task(root, name, settings.get(name, TaskSettings()), limit))
    return tasks


def _settings(root: Path) -> dict[str, TaskSettings]:
    path = root / _SETTINGS
    if not path.exists():
        return {}
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected task names, each with keys and values")
    try:
        return {
            str(task): from_mapping(TaskSettings, values or {}, str(task))
            for task, values in content.items()
        }
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _task(root: Path, name: str, settings: TaskSettings, limit: int | None) -> PromptedTask:
    file = root / (settings.templates or f"{name}/{_TEMPLATES}")
    if not file.is_file():
        raise UserError(f"{root}: task {name!r} has no templates; expected {file}")
    templates = read_templates(file)
    if settings.hub is not None:
        hub = settings.hub
        read, rows = partial(_hub_rows, hub, limit), ""
    else:
        files = _files(root, name, settings)
        read, rows = partial(_file_rows, files, limit), content_hash(files.values(), root)
    wordings = [[t.name, t.source, t.answer_choices] for t in templates]
    origin = [rows, asdict(settings), wordings, limit]
    facts = _facts(name, templates, settings)
    return PromptedTask(facts, templates, read, settings.role, origin)


def _facts(name: str, templates: Sequence[Template], settings: TaskSettings) -> Task:
    has_options = any(template.answer_choices for template in templates)
    own = next((template.metric for template in templates if template.metric), None)
    if own is not None and own not in names("metric"):
        raise UserError(f"task {name!r}: unknown metric {own!r}; {nearest(own, names('metric'))}")
    return Task(
        name,
        settings.metric or own or ("ACC" if has_options else "EM"),
        settings.category,
        settings.subcategory,
        settings.instruction,
        {"classification": has_options, **settings.features},
    )


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
    if not files:
        ways = f"{name}/<split>.<ext> (ext {', '.join(SUFFIXES)}) or keys in {_SETTINGS}"
        raise UserError(f"{root}: task {name!r} has no rows; expected {ways}")
    return files


def _file_rows(files: Mapping[Split, Path], limit: int | None) -> Pools:
    return {split: read_raw_rows(path, limit) for split, path in files.items()}


def _hub_rows(hub: HubRows, limit: int | None) -> Pools:
    return {split: hub.read(split, limit) for split in SPLITS if split in hub.splits}


def _relations(root: Path, max_options: int, limit: int | None) -> list[PromptedTask]:
    path = root / _RELATIONS
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected task names, each with 'templates'")
    return [_relation(root, path, n, facts, max_options, limit) for n, facts in content.items()]


def _relation(
    root: Path, path: Path, name: str, facts: Any, max_options: int, limit: int | None
) -> PromptedTask:
    check_task_name(name, path)
    wordings = _wordings(path, name, facts)
    files = [root / name / f"template{number}_test.tsv" for number in range(len(wordings))]
    rows = _subjects(files, wordings, limit)
    answers = dict.fromkeys(output for row in rows for output in row.columns["outputs"])
    options = None
    if 2 <= len(answers) <= max_options:
        options = f" {SEPARATOR} ".join(map(_literal, sorted(answers)))
    templates = tuple(
        Template(
            f"template{number}",
            f"{_literal(before)}{{{{ subject }}}}{_literal(after)} {SEPARATOR} "
            f'{{{{ outputs | join(" {SEPARATOR} ") }}}}',
            options,
        )
        for number, (before, after) in enumerate(wordings)
    )
    settings = TaskSettings(
        role=facts.get("role", "train"),
        category=str(facts.get("category", facts.get("group", "uncategorised"))),
        metric="ACC" if options else str(facts.get("metric", "EM")),
        instruction=str(facts.get("instruction", "")),
    )
    origin = [content_hash([path, *files], root), name, max_options, limit]
    task = _facts(name, templates, settings)
    return PromptedTask(task, templates, partial(_given, {"test": rows}), settings.role, origin)


def _given(pools: Pools) -> Pools:
    return pools


def _wordings(path: Path, name: str, facts: Any) -> list[tuple[str, str]]:
    """Text before and after the subject, per template."""
    templates = facts.get("templates") if isinstance(facts, dict) else None
    if not isinstance(templates, list) or not templates:
        raise UserError(f"{path}: task {name!r}: expected 'templates', a list of texts with {{}}")
    for key in facts:
        if key not in _FACTS:
            raise UserError(f"{path}: task {name!r}: unknown key {key!r}; {nearest(key, _FACTS)}")
    found = []
    for number, text in enumerate(templates):
        if not isinstance(text, str) or text.count("{}") != 1 or not is_storable(text):
            raise UserError(
                f"{path}: task {name!r}, template{number}: {json.dumps(text)[:80]}; expected a "
                "text with {} once, where the subject goes"
            )
        before, _, after = text.partition("{}")
        found.append((before, after))
    return found


def _subjects(
    files: Sequence[Path], wordings: Sequence[tuple[str, str]], limit: int | None
) -> list[RawRow]:
    """Rows with ``subject`` and ``outputs``, which all files must agree upon."""
    first: list[RawRow] = []
    for file, (before, after) in zip(files, wordings, strict=True):
        rows = []
        for number, line in text_lines(file, BadRows()):
            text, *outputs = line.split("\t")
            whole = text.startswith(before) and text.endswith(after)
            if not whole or len(text) <= len(before) + len(after) or not outputs:
                expected = f"{before}...{after}, a tab and outputs"
                raise UserError(f"{file}:{number}: expected {expected}; got {line:.80}")
            subject = text[len(before) : len(text) - len(after)]
            row = RawRow({"subject": subject, "outputs": outputs}, f"{file}:{number}")
            rows.append(row)
        _check_same(first, rows, file)
        first = first or rows
    if not first:
        raise UserError(f"{files[0]}: no rows")
    return first[:limit]


def _check_same(first: Sequence[RawRow], rows: Sequence[RawRow], file: Path) -> None:
    if not first:
        return
    for one, other in zip(first, rows, strict=False):
        if one.columns != other.columns:
            raise UserError(f"{other.where}: another row than {one.where}")
    if len(first) != len(rows):
        raise UserError(f"{file}: {len(rows)} rows; the first template has {len(first)}")


def _literal(text: str) -> str:
    """Text that Jinja leaves as it is."""
    return f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text
