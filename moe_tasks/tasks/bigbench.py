"""``tasks=bigbench``: tasks in BIG-bench's JSON format (arXiv 2206.04615), all of them unseen.

``path`` holds ``<task>/task.json``, ``<task>/<subtask>/task.json`` (a task ``<task>-<subtask>``) or
``<task>.json``, or rows with the columns of the hub's copy (``inputs``, ``targets``,
``multiple_choice_targets``, ``multiple_choice_scores``) as ``<task>/test.{jsonl,parquet,arrow}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moe_tasks.errors import UserError
from moe_tasks.registry import register
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.prompted import PromptedTasks
from moe_tasks.tasks.prompted_folder import read_task
from moe_tasks.tasks.prompted_settings import TaskSettings, task_facts
from moe_tasks.tasks.prompted_task import PromptedCollection, PromptedTask, given
from moe_tasks.tasks.raw_rows import SUFFIXES, HubRows, RawRow, drawn_rows
from moe_tasks.tasks.reading import check_task_name, choose, existing_folder, read_json
from moe_tasks.tasks.sampling import shuffled
from moe_tasks.tasks.template_files import METRICS, make_templates
from moe_tasks.tasks.templates import SEPARATOR, literal

HUB = "tasksource/bigbench"
ASKED_OF_T0 = (  # arXiv 2110.08207, section 6.1
    "code_line_description", "conceptual_combinations", "formal_fallacies_syllogisms_negation",
    "hindu_knowledge", "known_unknowns", "language_identification", "logic_grid_puzzle",
    "logical_deduction", "misconceptions", "movie_dialog_same_or_different", "novel_concepts",
    "strategyqa", "vitaminc_fact_verification", "winowhy",
)  # fmt: skip
_METRICS = {**METRICS, "exact_str_match": "EM"}
_JSON = "task.json"
_INPUT, _CHOICE, _OUTPUT = "\nQ: ", "\n  choice: ", "\nA: "  # BIG-bench's defaults


@register("tasks", "bigbench")
@dataclass
class BigBenchTasks(PromptedTasks):
    """BIG-bench's tasks; other keys as for ``tasks=prompted``.

    Attributes:
        path: their folder; the hub if empty.
        tasks: which of them; all of the folder, or the 14 that T0 was asked, when None.
    """

    path: str = ""

    def build(self) -> PromptedCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: a task's file is missing or malformed, or the hub cannot be reached.
        """
        if not self.path:
            names = self.tasks or ASKED_OF_T0
            return self._collect([_row_task(None, name, self.max_rows) for name in names])
        root = existing_folder(self.path)
        files = _files(root)
        chosen = choose("task", self.tasks, sorted(files))
        return self._collect([self._read(root, name, files[name]) for name in chosen])

    def _read(self, root: Path, name: str, file: Path) -> PromptedTask:
        if file.suffix == ".json":
            return _json_task(root, name, file, self.max_rows)
        return _row_task(root, name, self.max_rows)


def _files(root: Path) -> dict[str, Path]:
    """Task -> its JSON file or file of rows; ``UserError`` if there is none."""
    found = {path.stem: path for path in root.glob("*.json")}
    for folder in (path for path in root.iterdir() if path.is_dir()):
        found |= {f"{folder.name}-{path.parent.name}": path for path in folder.glob(f"*/{_JSON}")}
        own = [folder / _JSON, *(folder / f"test{suffix}" for suffix in SUFFIXES)]
        found.update((folder.name, path) for path in own[::-1] if path.is_file())
    if not found:
        raise UserError(f"{root}: no task; expected <task>/{_JSON} or <task>/test.<ext>")
    return found


def _settings(name: str, choice: bool, facts: Mapping[str, Any]) -> TaskSettings:
    """Wordings, and what a task's file says about it: description, keywords, scores.

    Args:
        choice: whether its rows have options.
    """
    description = " ".join(str(facts.get("description", "")).split())
    inputs = {"asked": "{{ inputs }}", "named": f"{name.replace('_', ' ')}: {{{{ inputs }}}}"}
    if description:
        inputs["described"] = f"{literal(description)} {{{{ inputs }}}}"
    wording = {"target": f'{{{{ targets | join("{SEPARATOR}") }}}}'}
    if choice:
        wording["answer_choices"] = f'{{{{ multiple_choice_targets | join("{SEPARATOR}") }}}}'
    metrics = [facts.get("preferred_score"), *(facts.get("metrics") or ())]
    return TaskSettings(
        role="test",
        category="BIG-bench",
        subcategory=str(next(iter(facts.get("keywords") or ()), "")),
        metric="ACC" if choice else next((_METRICS[m] for m in metrics if m in _METRICS), "EM"),
        instruction=description,
        templates={key: {"input": text, **wording} for key, text in inputs.items()},
        hub=HubRows(HUB, name, {"test": "validation"}),
    )


def _row_task(root: Path | None, name: str, limit: int | None) -> PromptedTask:
    """A task whose rows have the columns of the hub's copy; only they say if there are options."""
    task = read_task(root, name, _settings(name, True, {}), limit)
    if any(row.columns.get("multiple_choice_targets") for row in task.pools["test"]):
        return task
    return read_task(root, name, _settings(name, False, {}), limit)


def _has_options(facts: Mapping[str, Any]) -> bool:
    """Whether a task's rows are multiple choice; it may offer both, and prefer one."""
    examples = facts["examples"]
    answered = all("target" in example for example in examples)
    scored = all("target_scores" in example for example in examples)
    score = facts.get("preferred_score") or next(iter(facts.get("metrics") or ()), None)
    return scored and not (answered and score in _METRICS)


def _json_task(root: Path, name: str, file: Path, limit: int | None) -> PromptedTask:
    check_task_name(name, root)
    facts = read_json(file)
    examples = facts.get("examples") if isinstance(facts, dict) else None
    if not isinstance(examples, list) or not examples:
        raise UserError(f"{file}: expected 'examples', a list of at least one")
    for number, example in enumerate(examples, 1):
        if not isinstance(example, dict) or not isinstance(example.get("input"), str):
            raise UserError(f"{file}: example {number}: expected 'input', a text")
    choice = _has_options(facts)
    settings = _settings(name, choice, facts)
    rows = [
        RawRow(_columns(facts, example, choice, f"{file}: example {number}"), f"{file}:{number}")
        for number, example in enumerate(examples, 1)
    ]
    assert isinstance(settings.templates, dict)
    templates = make_templates(settings.templates, file)
    origin = [content_hash([file], root), asdict(settings), limit]
    read = partial(given, {"test": drawn_rows(rows, limit)})
    return PromptedTask(task_facts(name, templates, settings), templates, read, "test", origin)


def _columns(
    facts: Mapping[str, Any], example: Mapping[str, Any], choice: bool, where: str
) -> dict[str, Any]:
    """The row as the hub's copy has it: the input with the task's prefixes and options."""
    text = f"{facts.get('example_input_prefix', _INPUT)}{example['input']}"
    options: list[str] = []
    if choice:
        listed, targets = _options(example["target_scores"], where)
        options = [listed[place] for place in shuffled(len(listed), "options", text)]
        if facts.get("append_choices_to_input", True):
            prefix = facts.get("choice_prefix", _CHOICE)
            text += "".join(f"{prefix}{option}" for option in options)
    else:
        target = example.get("target")
        targets = [target] if isinstance(target, str) else target
        if not isinstance(targets, list) or not targets:
            raise UserError(f"{where}: expected 'target', a text or texts, or 'target_scores'")
    text = f"{facts.get('task_prefix', '')}{text}{facts.get('example_output_prefix', _OUTPUT)}"
    return {"inputs": text, "targets": targets, "multiple_choice_targets": options}


def _options(scores: Any, where: str) -> tuple[list[str], list[str]]:
    """All options, and those of the highest score."""
    numbers = list(scores.values()) if isinstance(scores, dict) else []
    known = all(isinstance(number, (int, float)) for number in numbers)
    if not numbers or not known or max(numbers) <= 0:
        raise UserError(f"{where}: 'target_scores': expected options, one with a score above 0")
    return list(scores), [option for option, score in scores.items() if score == max(numbers)]
