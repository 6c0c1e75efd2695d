"""A task's test rows in one wording, whatever the collection."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from moe_tasks.errors import UserError
from moe_tasks.tasks.base import Example, Task, TaskCollection
from moe_tasks.tasks.prompted_task import PromptedCollection

PLAIN = "plain"  # the one wording of collections without templates


@dataclass(frozen=True)
class View:
    """Attributes:
    text: what prompt and description say without a row, for routes.
    """

    task: Task
    template: str
    text: str
    examples: list[Example]

    @property
    def digest(self) -> str:
        """Changes with anything that decides a score, other than the model."""
        content = (self.text, self.task.metric, self.examples)
        return hashlib.sha256(repr(content).encode("utf-8", "replace")).hexdigest()[:16]


def template_names(collection: TaskCollection, task: str) -> list[str]:
    """The wordings of a task; ``UserError`` if there is no such task."""
    collection.task(task)
    if isinstance(collection, PromptedCollection):
        return [template.name for template in collection.prompted[task].templates]
    return [PLAIN]


def view(collection: TaskCollection, task: str, template: str) -> View:
    """Test rows of a task in one wording.

    Raises:
        UserError: unknown task or template, or a row that cannot be worded; names all three.
    """
    facts = collection.task(task)
    if not isinstance(collection, PromptedCollection):
        if template != PLAIN:
            raise UserError(f"task {task!r} has no template {template!r}; valid: {PLAIN}")
        sample = collection.samples[0]
        examples = collection.examples(task, "test", sample)
        return View(facts, template, facts.instruction, examples)
    prompted = collection.prompted[task]
    wording = prompted.template(template)
    text = f"{facts.instruction} {wording.words}".strip()
    return View(facts, template, text, prompted.worded("test", wording))
