"""GLUE's submission files from a run of encoders with heads."""

from __future__ import annotations

from pathlib import Path

from moe_tasks import config
from moe_tasks.conditional.model import CAMTL
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.heads import label_answers
from moe_tasks.evaluation.submission import FILES, write_submission
from moe_tasks.tasks.glue import GlueTasks
from moe_tasks.tasks.glue_hub import read_glue_test
from moe_tasks.tasks.glue_inputs import read_test_inputs
from moe_tasks.tasks.tokens import encode_texts
from moe_tasks.workspace import Workspace

_HEADS = {"mnli-mm": "mnli", "ax": "mnli"}  # test files that another task's head answers


def write_glue(workspace: Workspace, system: str, out: Path) -> list[Path]:
    """A system's answers to GLUE's test files, for those tasks that it has learned.

    Args:
        system: or the name that several are ``part_of``, such as a model per task.

    Raises:
        UserError: the run is not one of ``tasks=glue`` on an encoder, has no such system, or
            there are no test files.
    """
    settings = config.part("tasks", workspace.config.tasks)
    if not isinstance(settings, GlueTasks) or not workspace.is_encoder:
        raise UserError("what=submission is for runs of encoders on tasks=glue")
    systems = workspace.config.systems
    names = [name for name, s in systems.items() if s.train and system in (name, s.part_of)]
    if not names:
        listed = {s.part_of or name for name, s in systems.items() if s.train}
        raise UserError(f"unknown system {system!r}; {nearest(system, listed)}")
    data, found = workspace.data, {}
    learned = {task for name in names for task in workspace.tasks_of(name)}
    inputs = _test_inputs(settings, [t for t in FILES if _HEADS.get(t, t) in learned])
    for name in names:
        model = workspace.model(name)
        assert isinstance(model, CAMTL)
        for task, texts in inputs.items():
            head = _HEADS.get(task, task)
            if head in model.task_names:
                ids = encode_texts(data.tokenizer, texts, data.config.max_source)
                found[task] = label_answers(model, data, head, ids)
    return write_submission(found, out)


def _test_inputs(settings: GlueTasks, tasks: list[str]) -> dict[str, list[str]]:
    """Inputs of the test files that are there, or of the hub's test splits of ``tasks``."""
    if settings.path is None:
        return read_glue_test(str(settings.hub), tasks, settings.separator)
    return read_test_inputs(settings.path, separator=settings.separator)
