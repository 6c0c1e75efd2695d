"""Representations computed from a task's examples: a raw vector per task, one fitted map."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from moe_tasks import config as configuration
from moe_tasks.errors import UserError
from moe_tasks.representations.base import TaskVectors, VectorContext
from moe_tasks.representations.store import RawStore
from moe_tasks.representations.transformation import Transformation, fit_transformation
from moe_tasks.training.callbacks import Callback, Start
from moe_tasks.training.progress import ProgressDisplay
from moe_tasks.training.signals import Interrupted, StopSignals

_VERSION = 1  # goes into every key: raise it when raw vectors change
Cell = tuple[str, str | None]  # a training task and None, or an unseen one and its sample


@dataclass
class Representation:
    """Base of the computed ones: what is kept per task, and the map to task vectors.

    Attributes:
        examples: how many examples per task, the first ones; ``None`` is all.
        learn: whether training goes on changing the vectors.
    """

    examples: int | None = 16
    learn: bool = False

    # Whether raw vectors depend on the initial model, and on the seed.
    uses_backbone: ClassVar[bool] = True
    uses_seed: ClassVar[bool] = False
    # Settings that raw vectors do not depend on.
    _afterwards: ClassVar[frozenset[str]] = frozenset({"learn", "whiten", "dim"})

    def __post_init__(self) -> None:
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"'examples' is {self.examples}; it must be at least 1, or null")

    def build(self, context: VectorContext) -> ComputedVectors:
        return ComputedVectors(self, context)

    def settings(self) -> dict[str, Any]:
        """JSON-able: what decides the raw vectors, besides examples, seed and backbone."""
        return {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in self._afterwards
        }

    def texts(self, context: VectorContext, cell: Cell) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs of the examples that ``raw`` is given."""
        inputs, outputs = context.texts(*cell)
        return inputs[: self.examples], outputs[: self.examples]

    def raw(self, context: VectorContext, inputs: list[Any], outputs: list[Any]) -> Tensor:
        """The raw vector ``[raw dim]`` of a task with these examples, on the CPU."""
        raise NotImplementedError

    def transformation(self, raw: Tensor) -> Transformation:
        """The map from raw vectors, fitted on ``[tasks, raw dim]``."""
        return fit_transformation(raw, standardise=True, whiten=0.0)


class ComputedVectors:
    """A source of task vectors (``base.TaskVectors``) that keeps the raw ones.

    Attributes:
        transformation: what :meth:`fit` found, or one that was fitted elsewhere.
    """

    def __init__(self, representation: Representation, context: VectorContext) -> None:
        self.representation, self.context = representation, context
        self.learn = representation.learn
        self.transformation: Transformation | None = None
        self._store = RawStore(context.folder)
        self._placed: dict[Cell, Tensor] = {}

    def fit(self, tasks: Sequence[str]) -> Tensor:
        """Vectors ``[tasks, dim]``; the transformation is fitted on them.

        Raises:
            UserError: the tasks' examples are all the same, or a vector is not finite.
            Interrupted: a signal came; finished raw vectors are kept.
        """
        cells: list[Cell] = [(task, None) for task in tasks]
        self.prepare(cells)
        raw = torch.stack([self.raw(cell) for cell in cells])
        self.transformation = self.representation.transformation(raw)
        return self.transformation(raw)

    def place(self, task: str, sample: str | None) -> Tensor:
        """Vector ``[dim]`` of a task from one sample (``None``: from all that training sees)."""
        if self.transformation is None:
            raise RuntimeError("task vectors are fitted before a task is placed")
        if (task, sample) not in self._placed:
            self._placed[task, sample] = self.transformation(self.raw((task, sample)))
        return self._placed[task, sample]

    def prepare(self, cells: Iterable[Cell]) -> None:
        """Compute the raw vectors that are missing, showing how far that is.

        Raises:
            Interrupted: a signal came; finished ones are kept if the context has a folder.
        """
        cells = list(cells)
        missing = [cell for cell in cells if self._store.find(self._key(cell)) is None]
        if not missing:
            return
        done, total = len(cells) - len(missing), len(cells)
        display = ProgressDisplay() if self.context.progress else Callback()
        display.on_start(Start("task_vectors", self.context.model, {}, done, total, done))  # type: ignore[arg-type]
        with StopSignals() as signals:
            for cell in missing:
                try:
                    self.raw(cell)
                    done += 1
                    display.on_step(done, None)
                except Interrupted as stop:  # from the fine-tuning of one task
                    signals.received = stop.signal
                if signals.received is not None:
                    break
        display.on_end(done == total)
        if signals.received is not None:
            folder = self.context.folder
            raise Interrupted(signals.received, "task_vectors", done, total, folder)

    def raw(self, cell: Cell) -> Tensor:
        """The raw vector ``[raw dim]`` of a cell, computed once."""
        return self._store.once(self._key(cell), lambda: self._compute(cell))

    def _compute(self, cell: Cell) -> Tensor:
        inputs, outputs = self.representation.texts(self.context, cell)
        with torch.enable_grad():  # unseen tasks are placed during evaluation too
            raw = self.representation.raw(self.context, inputs, outputs)
        if not torch.isfinite(raw).all():
            raise UserError(
                f"task vector of {cell[0]!r} is not finite; try a lower learning rate of its "
                "fine-tuning, if it has one"
            )
        return raw

    def identity(self) -> dict[str, Any]:
        """JSON-able: what decides raw vectors, besides the examples."""
        kind = self.representation
        return {
            "version": _VERSION,
            "kind": type(kind).__name__,
            "settings": kind.settings(),
            "backbone": self.context.fingerprint if kind.uses_backbone else None,
            "seed": self.context.seed if kind.uses_seed else None,
        }

    def _key(self, cell: Cell) -> dict[str, Any]:
        return {
            **self.identity(),
            "pad_token_id": self.context.pad_token_id,
            "examples": [_digest(side) for side in self.representation.texts(self.context, cell)],
        }


def fitted_source(
    values: Mapping[str, Any],
    context: VectorContext,
    tasks: Sequence[str],
    unseen: Iterable[tuple[str, str]] = (),
) -> tuple[TaskVectors, Tensor]:
    """The source that the keys of ``task_vectors`` describe, and its vectors ``[tasks, dim]``.

    Args:
        tasks: the training tasks.
        unseen: tasks and samples to be placed later: done now, so that whatever is wrong with
            one shows before training, and no two processes compute it.

    Raises:
        UserError: unknown keys or values, a file or encoder that cannot be used, or a task that
            has no vector.
        Interrupted: a signal came; what was computed is kept in the context's folder.
    """
    source: TaskVectors = configuration.part("task_vectors", values).build(context)
    unseen = list(unseen)
    if isinstance(source, ComputedVectors):
        source.prepare([*((task, None) for task in tasks), *unseen])
    vectors = source.fit(tasks)
    for task, sample in unseen:
        source.place(task, sample)
    return source, vectors


def _digest(texts: Sequence[Any]) -> str:
    total = hashlib.sha256()
    for text in texts:
        data = (
            text.encode("utf-8", "surrogatepass")
            if isinstance(text, str)
            else numpy.asarray(text, "<i8").tobytes()
        )
        total.update(b"%d " % len(data) + data)
    return total.hexdigest()
