"""``tasks=prompted_synthetic``: the embedded tasks, each in several wordings.

Without a wording the embedded tasks leave open what is wanted (see ``synthetic``). Here a row's
input says it, in one of a few ways, so that a task can be asked for that was never trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from moe_tasks.registry import register
from moe_tasks.tasks.base import Split, Task, TaskCollection
from moe_tasks.tasks.prompted import collect
from moe_tasks.tasks.prompted_task import DRAWN, Pools, PromptedCollection, PromptedTask
from moe_tasks.tasks.raw_rows import RawRow
from moe_tasks.tasks.reading import BadRows
from moe_tasks.tasks.synthetic import POOL, SyntheticTasks
from moe_tasks.tasks.templates import SEPARATOR, Template

_VERSION = 1  # goes into every cache name: raise it when wordings change
_MAX_OPTIONS = 20

# How an instruction begins -> what may stand there instead, once per further wording.
_OPENINGS: Mapping[str, tuple[str, str]] = {
    "copy the": ("find the", "write down the"),
    "is the": ("say of the", "tell of the"),
    "choose the": ("name the", "find the"),
    "which tongue": ("what tongue", "say which tongue"),
    "what does": ("say what does", "tell what does"),
    "in which": ("say in which", "tell in which"),
    "on which": ("say on which", "tell on which"),
    "to which": ("say to which", "tell to which"),
    "with which": ("say with which", "tell with which"),
    "write": ("give", "say"),
    "put it": ("turn it", "change it"),
    "make it": ("turn it into", "change it into"),
    "leave out": ("drop", "skip"),
    "move": ("bring", "shift"),
    "swap": ("exchange", "switch"),
    "negate it": ("deny it", "make it negative"),
}
# Where the instruction (I) stands.
_PLACES = (
    "I {{ input }}",
    "{{ input }} I",
    "text : {{ input }} task : I",
    "task : I text : {{ input }}",
)


@register("tasks", "prompted_synthetic")
@dataclass(frozen=True)
class PromptedSyntheticTasks:
    """The embedded tasks in four wordings each.

    Attributes:
        seed, split, train_rows: as for ``tasks=synthetic``.
        template: wording of the rows that are trained on, as for ``tasks=prompted``.
        cache_dir: where the tables of rows are kept.
    """

    seed: int = 0
    split: int = 0
    train_rows: int | None = 256
    template: str = DRAWN
    cache_dir: str = ".cache/moe_tasks"

    def __post_init__(self) -> None:
        self._plain()

    def build(self) -> PromptedCollection:
        """The collection, generated or found in the cache; ``UserError`` as for ``synthetic``."""
        plain = self._plain().build()
        roles: dict[str, Split] = {
            name: role for role, members in plain.roles.items() for name in members
        }
        origin = ["synthetic", _VERSION, self.seed, self.split, self.train_rows]
        tasks = [_prompted(plain, name, roles[name], origin) for name in sorted(roles)]
        return collect(tasks, self.template, self.seed, self.cache_dir, BadRows())

    def _plain(self) -> SyntheticTasks:
        return SyntheticTasks(self.seed, self.split, self.train_rows, self.cache_dir)


def _prompted(
    plain: TaskCollection, name: str, role: Split, origin: Sequence[object]
) -> PromptedTask:
    task = plain.task(name)
    options = _options(plain, name, role)
    templates = tuple(
        Template(
            f"wording{number}",
            f"{place.replace('I', wording)} {SEPARATOR} {{{{ output }}}}",
            options,
        )
        for number, (place, wording) in enumerate(zip(_PLACES, _wordings(task), strict=True))
    )
    return PromptedTask(task, templates, partial(_rows, plain, name, role), role, [*origin])


def _wordings(task: Task) -> tuple[str, str, str, str]:
    """The task's instruction in four wordings, the first and the last as it is written."""
    text = task.instruction
    for opening, (one, other) in _OPENINGS.items():
        if text.startswith(opening):
            rest = text[len(opening) :]
            return text, one + rest, other + rest, text
    return text, f"please {text}", f"now {text}", text


def _options(plain: TaskCollection, name: str, role: Split) -> str | None:
    """Jinja text of the answer options: the row's own, or all answers where they are few."""
    own = _rows(plain, name, role)
    if any(row.columns["options"] for row in own["test"]):
        return f'{{{{ options | join(" {SEPARATOR} ") }}}}'
    if plain.task(name).category != "closed-book knowledge":
        return None
    answers = sorted({row.columns["output"] for rows in own.values() for row in rows})
    return f" {SEPARATOR} ".join(answers) if len(answers) <= _MAX_OPTIONS else None


def _rows(plain: TaskCollection, name: str, role: Split) -> Pools:
    """Train rows are those of the pool, where the task has one; else of the first sample."""
    pools: dict[Split, list[RawRow]] = {}
    first = plain.samples[0]
    splits: tuple[Split, ...] = ("test",) if role == "test" else ("train", "dev", "test")
    pooled = role == "train" and plain.has_rows(name, "train", POOL)
    for split in splits:
        examples = plain.examples(name, split, POOL if pooled and split == "train" else first)
        pools[split] = [
            RawRow(
                {"input": e.input, "output": e.outputs[0], "options": list(e.options)},
                f"{split} {number}",
            )
            for number, e in enumerate(examples, 1)
        ]
    return pools
