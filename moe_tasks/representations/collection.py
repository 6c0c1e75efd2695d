"""All task vectors of a collection, and the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from moe_tasks import __version__
from moe_tasks import config as configuration
from moe_tasks.errors import UserError
from moe_tasks.registry import lookup, names
from moe_tasks.representations.computed import Cell, ComputedVectors, Representation
from moe_tasks.representations.vector_file import VectorFile, read_vectors, write_vectors

if TYPE_CHECKING:
    from moe_tasks.workspace import Workspace


def computed(values: Mapping[str, Any]) -> Representation:
    """The representation that keys of group ``task_vectors`` describe.

    Raises:
        UserError: it is none that is computed, or its keys are wrong.
    """
    part = configuration.part("task_vectors", values)
    if not isinstance(part, Representation):
        known = [n for n in names("task_vectors") if _is_computed(lookup("task_vectors", n))]
        raise UserError(
            f"task_vectors={values['name']} computes nothing to write; valid: {', '.join(known)}"
        )
    return part


def represent(
    workspace: Workspace, values: Mapping[str, Any], cache: Path, out: Path, fitted: str | None
) -> str:
    """Compute and write vectors of all training tasks and of every sample of all others.

    Args:
        workspace: with its initial weights.
        values: keys of the representation (group ``task_vectors``).
        cache: folder of raw vectors; finished ones are taken from there.
        fitted: an earlier file whose transformation is used, instead of one fitted here.

    Returns:
        What was written, in words.

    Raises:
        UserError: the representation computes nothing, does not fit ``fitted``, or fails for a
            task.
        Interrupted: a signal came; finished raw vectors stay in ``cache``.
    """
    source = computed(values).build(replace(workspace.vector_context, folder=cache))
    if fitted is not None:
        use_fitted(source, fitted, read_vectors(fitted))
    data = workspace.data
    training: list[Cell] = [(task, None) for task in data.train_tasks]
    unseen: list[Cell] = [*data.unseen_cells("dev", None), *data.unseen_cells("test", None)]
    vectors = _vectors(source, training, unseen)
    assert source.transformation is not None
    write_vectors(out, vectors, source.transformation, _facts(workspace, values, source))
    dim = len(vectors[training[0]])
    return f"wrote {out}: {len(training)} training tasks, {len(unseen)} placed, {dim} numbers each"


def _is_computed(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Representation)


def use_fitted(source: ComputedVectors, path: str, file: VectorFile) -> None:
    """Make ``source`` use an earlier file's transformation.

    Raises:
        UserError: the file has none, or one of other raw vectors; the message says what differs.
    """
    if file.transformation is None:
        raise UserError(f"{path}: python -m moe_tasks.represent did not write this file")
    then, now = file.facts.get("identity", {}), source.identity()
    changed = [key for key in now if then.get(key) != now[key]]
    if changed:
        told = "; ".join(f"{key} was {then.get(key)!r} and is {now[key]!r}" for key in changed)
        raise UserError(f"{path}: its transformation is for other vectors: {told}")
    source.transformation = file.transformation


def _vectors(
    source: ComputedVectors, training: list[Cell], unseen: list[Cell]
) -> dict[Cell, Tensor]:
    source.prepare([*training, *unseen])
    if source.transformation is None:
        fitted = source.fit([task for task, _ in training])
        vectors = dict(zip(training, fitted, strict=True))
    else:
        vectors = {cell: source.place(*cell) for cell in training}
    return {**vectors, **{cell: source.place(*cell) for cell in unseen}}


def _facts(
    workspace: Workspace, values: Mapping[str, Any], source: ComputedVectors
) -> dict[str, Any]:
    identity, data = source.identity(), workspace.config.data
    return {
        "kind": values["name"],
        "settings": {key: value for key, value in values.items() if key != "name"},
        "identity": identity,
        "backbone": identity["backbone"],
        "seed": workspace.config.seed,
        "collection": workspace.config.tasks,
        "training_tasks": list(workspace.data.train_tasks),
        "data": {key: getattr(data, key) for key in ("prompt", "max_source", "max_target")},
        "made_by": f"moe_tasks {__version__}",
    }
