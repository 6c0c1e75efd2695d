"""The file that ``python -m moe_tasks.represent`` writes, and any other with vectors by task.

One safetensors file: a tensor ``[dim]`` per training task, named like it, and one per few-shot
sample of an unseen task, named ``task@sample``. Ours also hold the fitted transformation and, as
metadata, what they were made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moe_tasks.errors import UserError
from moe_tasks.representations.store import write_whole
from moe_tasks.representations.transformation import Transformation

FORMAT = "moe_tasks.task_vectors"
_VERSION = "1"
_PARTS = ("mean", "scale", "matrix")
_PREFIX = "transformation/"


@dataclass(frozen=True)
class VectorFile:
    """What a file holds.

    Attributes:
        vectors: by task, or task and sample; all of one length and finite.
        transformation: of files that we wrote.
        facts: what they were made from; empty for other files.
    """

    vectors: dict[str, Tensor]
    transformation: Transformation | None
    facts: dict[str, Any]


def cell_name(task: str, sample: str | None) -> str:
    """The name of a vector in a file."""
    return task if sample is None else f"{task}@{sample}"


def write_vectors(
    path: Path,
    vectors: Mapping[tuple[str, str | None], Tensor],
    transformation: Transformation,
    facts: Mapping[str, Any],
) -> None:
    """Write a file in one step.

    Args:
        vectors: by task and sample (``None`` for training tasks).
        facts: JSON-able, by key: what the vectors were made from.

    Raises:
        UserError: two vectors have one name, or the file cannot be written.
    """
    tensors = {f"{_PREFIX}{part}": getattr(transformation, part).contiguous() for part in _PARTS}
    for (task, sample), vector in vectors.items():
        name = cell_name(task, sample)
        if name in tensors or name == "__metadata__":
            raise UserError(f"{path}: two vectors would be named {name!r}; rename that task")
        tensors[name] = vector.contiguous()
    known = {key: json.dumps(value, sort_keys=True) for key, value in facts.items()}
    write_whole(path, save(tensors, {"format": f"{FORMAT}/{_VERSION}", **known}))


def read_vectors(path: str | Path) -> VectorFile:
    """Read a file and check every vector.

    Raises:
        UserError: no such file, not a safetensors file, of a later format, or a vector that is
            not one row of finite numbers as long as the others; the message names it.
    """
    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file: {error}") from error
    written, _, version = metadata.pop("format", "").partition("/")
    if written != FORMAT:
        return VectorFile(_checked(path, tensors), None, {})
    if version != _VERSION:
        raise UserError(f"{path}: of format {version}; this version reads {_VERSION}")
    try:
        transformation = Transformation(*(tensors.pop(f"{_PREFIX}{part}") for part in _PARTS))
        facts = {key: json.loads(value) for key, value in metadata.items()}
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: incomplete: {error}") from error
    return VectorFile(_checked(path, tensors), transformation, facts)


def _checked(path: str | Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not tensors:
        raise UserError(f"{path}: holds no task vectors")
    for name, vector in tensors.items():
        if vector.dim() != 1 or not len(vector) or vector.is_complex():
            shape = list(vector.shape)
            raise UserError(f"{path}: vector of {name!r} is not one row of numbers: {shape}")
        if not torch.isfinite(vector).all():
            raise UserError(f"{path}: vector of {name!r} is not one row of finite numbers")
    lengths = [len(vector) for vector in tensors.values()]
    usual = max(lengths, key=lengths.count)
    for name, vector in tensors.items():
        if len(vector) != usual:
            raise UserError(
                f"{path}: vectors differ in width: {name!r} has {len(vector)} numbers, "
                f"others have {usual}"
            )
    return {name: vector.float() for name, vector in tensors.items()}
