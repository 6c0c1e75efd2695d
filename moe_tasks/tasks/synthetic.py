"""``tasks=synthetic``: the embedded default tasks, readable English made by rule.

71 tasks in five categories over one vocabulary of about 370 words. Many tasks have the same
inputs and differ only in what is wanted; a task's skill is shared with others of its category,
and an unseen task asks for a known skill on new content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_tasks.registry import register
from moe_tasks.tasks._synthetic import (
    choice,
    classification,
    extraction,
    knowledge,
    sampling,
    transform,
)
from moe_tasks.tasks._synthetic.facts import World
from moe_tasks.tasks._synthetic.roles import assign
from moe_tasks.tasks._synthetic.spec import Spec
from moe_tasks.tasks.base import Split, TaskCollection
from moe_tasks.tasks.cache import content_hash
from moe_tasks.tasks.reading import Row, cached_rows

POOL = sampling.POOL

_CODE = Path(sampling.__file__).parent


@register("tasks", "synthetic")
@dataclass(frozen=True)
class SyntheticTasks:
    """The embedded tasks.

    Attributes:
        seed: of the rows and of the invented facts.
        split: which partition of the tasks into train, dev and test tasks; independent of ``seed``.
        train_rows: with a number, every train task also has that many rows in split ``train`` of
            the sample ``pool``, none of them a dev or test row of any sample; the rows of the
            few-shot samples stay what they are. The facts of closed-book tasks are all in the
            pool, but not all in a few-shot sample.
        cache_dir: where the table of rows is kept.
    """

    seed: int = 0
    split: int = 0
    train_rows: int | None = None
    cache_dir: str = ".cache/moe_tasks"

    def __post_init__(self) -> None:
        for key in ("seed", "split"):
            if getattr(self, key) < 0:
                raise ValueError(f"'{key}' is {getattr(self, key)}; expected 0 or more")
        if self.train_rows is not None and self.train_rows < 1:
            raise ValueError(f"'train_rows' is {self.train_rows}; expected 1 or more")

    def roles(self) -> dict[Split, tuple[str, ...]]:
        """Role -> names of the tasks; decided by ``split`` alone."""
        return assign(all_specs(self.seed), self.split)

    def build(self) -> TaskCollection:
        """The collection, generated or found in the cache.

        Raises:
            UserError: ``train_rows`` is more than a task has, or the cache cannot be written.
        """
        specs = sorted(all_specs(self.seed), key=lambda spec: spec.name)
        roles = self.roles()
        key = {
            "synthetic": [self.seed, self.train_rows],
            "roles": roles,
            "code": content_hash(sorted(_CODE.glob("*.py")), _CODE),
        }
        table, _ = cached_rows(self.cache_dir, key, lambda: self._rows(specs, roles), lambda: None)
        tasks = {spec.name: spec.task for spec in specs}
        return TaskCollection(tasks, roles, sampling.SAMPLES, table)

    def _rows(self, specs: Sequence[Spec], roles: Mapping[Split, Sequence[str]]) -> Iterator[Row]:
        unseen = {*roles["dev"], *roles["test"]}
        for spec in specs:
            rows = list(sampling.rows(spec, self.seed, spec.name in unseen, self.train_rows))
            rows.sort(key=lambda row: row[:2])
            yield from ((spec.name, *row) for row in rows)


def all_specs(seed: int) -> list[Spec]:
    """All tasks with their generating functions; ``seed`` decides the facts."""
    world = World.invent(seed)
    return [
        *extraction.specs(),
        *classification.specs(),
        *knowledge.specs(world),
        *choice.specs(),
        *transform.specs(),
    ]
