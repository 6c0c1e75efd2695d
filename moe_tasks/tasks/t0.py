"""``tasks=t0``: T0's training mixture and the 11 sets it was not trained on (Sanh et al., arXiv
2110.08207): ANLI 1 to 3, CB, COPA, HellaSwag, RTE, Story Cloze, WiC, Winogrande and WSC.

``t0.yaml`` has each set's place on the hub, columns and a few wordings of our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_tasks.registry import register
from moe_tasks.tasks.prompted import PromptedTasks
from moe_tasks.tasks.prompted_folder import read_task
from moe_tasks.tasks.prompted_settings import read_settings
from moe_tasks.tasks.prompted_task import PromptedCollection
from moe_tasks.tasks.reading import choose, existing_folder

CATALOGUE = Path(__file__).with_name("t0.yaml")


@register("tasks", "t0")
@dataclass
class T0Tasks(PromptedTasks):
    """The tasks of T0; other keys as for ``tasks=prompted``.

    Attributes:
        path: a folder with what is not to come from the hub: ``<task>/{train,dev,test}.{jsonl,
            parquet,arrow}`` with the hub's columns; and what replaces our wordings:
            ``<task>/templates.yaml`` in promptsource's format, such as P3's own.
        tasks: which of them; the others are not asked for.
    """

    path: str = ""

    def build(self) -> PromptedCollection:
        """Read, or find in the cache, all rows of the chosen tasks.

        Raises:
            UserError: the hub cannot be reached for a task without files, or a row does not fit.
        """
        root = existing_folder(self.path) if self.path else None
        known = read_settings(CATALOGUE)
        chosen = choose("task", self.tasks, sorted(known))
        return self._collect([read_task(root, n, known[n], self.max_rows) for n in chosen])
