"""Relations in several wordings: ``templates.json`` with ``{task: {group, metric, templates: ["...
{} ..."]}}`` beside ``<task>/template<i>_test.tsv``, the same rows in every wording: input, tab,
accepted outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError, nearest
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.prompted_settings import TaskSettings, task_facts
from moe_tasks.tasks.prompted_task import PromptedTask, given
from moe_tasks.tasks.raw_rows import RawRow, drawn_rows
from moe_tasks.tasks.reading import BadRows, check_task_name, is_storable, read_json, text_lines
from moe_tasks.tasks.templates import SEPARATOR, Template, literal

RELATIONS = "templates.json"
_FACTS = ("group", "examples", "templates", "metric", "category", "instruction", "role")


def read_relations(root: Path, max_options: int, limit: int | None) -> list[PromptedTask]:
    """The relations of a folder; arguments and errors as for ``prompted_folder.read_folder``."""
    path = root / RELATIONS
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
        options = f" {SEPARATOR} ".join(map(literal, sorted(answers)))
    templates = tuple(
        Template(
            f"template{number}",
            f"{literal(before)}{{{{ subject }}}}{literal(after)} {SEPARATOR} "
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
    task = task_facts(name, templates, settings)
    return PromptedTask(task, templates, partial(given, {"test": rows}), settings.role, origin)


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
    return drawn_rows(first, limit)


def _check_same(first: Sequence[RawRow], rows: Sequence[RawRow], file: Path) -> None:
    if not first:
        return
    for one, other in zip(first, rows, strict=False):
        if one.columns != other.columns:
            raise UserError(f"{other.where}: another row than {one.where}")
    if len(first) != len(rows):
        raise UserError(f"{file}: {len(rows)} rows; the first template has {len(first)}")
