"""What importers share: strict reading of published files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy
import torch
from torch import Tensor

from moe_tasks.errors import UserError, nearest

_SHOWN = 4  # names in a message


def read_state_dict(path: Path, integers: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors by name from a ``torch.save`` file. Nothing in it is executed.

    Args:
        integers: names that may hold whole numbers.

    Raises:
        UserError: no such file, or anything else than a mapping of names to tensors.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged or hostile bytes make the reader raise
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path}: not a file of tensors: {reason}") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds a {type(state).__name__}; expected tensors by name")
    odd = [key for key, value in state.items() if not _is_tensor(key, value, integers)]
    if odd:
        raise UserError(f"{path}: not a named tensor of floating-point numbers: {some(odd)}")
    return dict(state)


def _is_tensor(key: object, value: object, integers: Collection[str]) -> bool:
    if not isinstance(key, str) or not isinstance(value, Tensor):
        return False
    whole = key in integers and value.dtype in (torch.int32, torch.int64)
    return value.layout is torch.strided and (whole or value.is_floating_point())


def check_state(path: Path, state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """``UserError`` unless ``state`` (of file ``path``) has these names and shapes, all finite."""
    missing = [name for name in shapes if name not in state]
    unknown = [name for name in state if name not in shapes]
    if missing or unknown:
        hint = f"; {nearest(unknown[0], missing)}" if missing and unknown else ""
        parts = [f"{kind} {some(n)}" for kind, n in (("missing", missing), ("unknown", unknown))]
        shown = " and ".join(part for part, n in zip(parts, (missing, unknown), strict=True) if n)
        raise UserError(f"{path}: {shown}{hint}")
    wrong = [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if state[name].shape != shape
    ]
    if wrong:
        raise UserError(f"{path}: wrong shapes: {some(wrong)}")
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise UserError(f"{path}: not finite: {some(bad)}")


def read_table(path: Path) -> Tensor:
    """A two-dimensional ``.npy`` table of finite numbers, float32.

    Raises:
        UserError: no such file, something else in it, or numbers that are not finite.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        table = numpy.load(path, allow_pickle=False)
    except Exception as error:  # whatever damaged or hostile bytes make the reader raise
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path}: not a plain NumPy array: {reason}") from error
    if not isinstance(table, numpy.ndarray) or table.dtype.kind != "f" or table.ndim != 2:
        kind = getattr(table, "dtype", type(table).__name__)
        shape = list(getattr(table, "shape", []))
        raise UserError(f"{path}: expected a table of floating-point numbers, got {kind} {shape}")
    tensor = torch.from_numpy(table.astype(numpy.float32))
    bad = (~torch.isfinite(tensor).all(-1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(f"{path}: not finite in row {some(bad)}")
    return tensor


def some(names: Iterable[object]) -> str:
    """The first few of ``names``, and how many there are if that is more."""
    names = [str(name)[:200] for name in names]
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
