"""Trained systems as folders for others: plain Hugging Face models with a card, one per task."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from moe_tasks.backbones import load_tokenizer
from moe_tasks.errors import UserError
from moe_tasks.exporting.pruning import drop_unused_experts
from moe_tasks.model import TaskMoE
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.training.files import new_folder
from moe_tasks.workspace import Workspace

_CARD = "README.md"
_PROMPTS = {
    "content": "the content alone",
    "instruction": "an instruction and the content",
    "name": "` [task name] ` and the content",
}


def write_task(workspace: Workspace, system: str, task: str, out: Path) -> None:
    """The plain model of one training task, which ``AutoModelForSeq2SeqLM`` loads: weights,
    generation configuration, tokenizer and a model card.

    Raises:
        UserError: no such system or task, or ``out`` is not empty.
    """
    model = workspace.model(system)
    model.task_id(task)
    with new_folder(out) as aside:
        _write(workspace, system, model, task, aside)


def write_all_tasks(workspace: Workspace, system: str, out: Path) -> None:
    """A folder per training task below ``out``; tasks of one route share their files (hard links).

    Raises:
        UserError: no such system, or ``out`` is not empty.
    """
    model = workspace.model(system)
    written: dict[str, Path] = {}
    with new_folder(out) as aside:
        for task in model.task_names:
            folder = aside / task
            folder.mkdir()
            twin = written.setdefault(_route_key(model, task), folder)
            if twin is folder:
                _write(workspace, system, model, task, folder)
            else:
                _link(twin, folder)
                (folder / _CARD).write_text(_card(workspace, system, model, task), "utf-8")


def write_routed(workspace: Workspace, system: str, out: Path) -> None:
    """The routed model with its routes fixed, without the experts that no task uses.

    Raises:
        UserError: no such system, it has no experts, or ``out`` is not empty.
    """
    model = workspace.model(system)
    if not isinstance(model, TaskMoE):
        raise UserError(f"system {system!r} has no experts; export its tasks with what=model")
    drop_unused_experts(model)
    with new_folder(out) as aside:
        model.save(aside)
        load_tokenizer(workspace.initial_folder(1)).save_pretrained(aside)


def _write(
    workspace: Workspace, system: str, model: MultiTaskModel, task: str, folder: Path
) -> None:
    model.squeeze(task).save_pretrained(folder)
    load_tokenizer(workspace.initial_folder(1)).save_pretrained(folder)
    (folder / _CARD).write_text(_card(workspace, system, model, task), "utf-8")


def _route_key(model: MultiTaskModel, task: str) -> str:
    if not isinstance(model, TaskMoE):
        return ""
    return json.dumps(model.routes()[model.task_id(task)].tolist())


def _link(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.name == _CARD:
            continue
        try:
            os.link(file, target / file.name)
        except OSError:  # a file system without hard links
            shutil.copy2(file, target / file.name)


def _card(workspace: Workspace, system: str, model: MultiTaskModel, task: str) -> str:
    config = workspace.config
    facts = workspace.collection.task(task)
    head = yaml.safe_dump(
        {"library_name": "transformers", "tags": ["moe_tasks", "task-level-moe", facts.category]},
        sort_keys=False,
    )
    lines = [
        f"# {task}",
        "",
        f"The model of task `{task}` (category {facts.category}, metric {facts.metric}), cut out "
        f"of system `{system}` of experiment `{config.name}`, seed {config.seed}. It is a plain "
        f"`{type(model.backbone).__name__}` and needs transformers only:",
        "",
        "```python",
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
        'model = AutoModelForSeq2SeqLM.from_pretrained("path/of/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")',
        "```",
        "",
        f"- Initial weights: `{_backbone(workspace)}`",
        f"- Inputs held {_PROMPTS[config.data.prompt]}, cut after {config.data.max_source} tokens.",
        *_score_lines(workspace, system, task),
        *_route_lines(model, task),
    ]
    return f"---\n{head}---\n\n" + "\n".join(lines) + "\n"


def _backbone(workspace: Workspace) -> str:
    values = workspace.config.backbone
    return str(values.get("path", values["name"]))


def _score_lines(workspace: Workspace, system: str, task: str) -> Iterable[str]:
    file = workspace.folder / "train_scores.csv"
    rows = csv.DictReader(file.open(encoding="utf-8")) if file.exists() else ()
    for row in rows:
        if (row["system"], row["task"]) == (system, task):
            yield f"- {row['metric']} on the task's {row['split']} rows: {float(row['score']):.3f}"


def _route_lines(model: MultiTaskModel, task: str) -> Iterable[str]:
    if not isinstance(model, TaskMoE):
        return
    yield "- Route, weight of each expert by layer:"
    yield ""
    yield "| layer | " + " | ".join(f"expert {e}" for e in range(model.spec.num_experts)) + " |"
    yield "|---|" + "---|" * model.spec.num_experts
    for name, weights in zip(model.layer_names, model.routes()[model.task_id(task)], strict=True):
        yield f"| {name} | " + " | ".join(f"{w:.3f}" for w in weights.tolist()) + " |"
    if model.selection.mode == "mix":
        yield ""
        yield (
            "The system mixed its experts' outputs. This model has their parameters merged by the "
            "same weights, which is near but not the same."
        )
