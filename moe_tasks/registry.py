"""Parts by name: a part is one file that calls ``register(group, name)``, nothing else.

A group's files are found in the package that belongs to it, and in installed packages that
declare an entry point in ``moe_tasks.plugins``. Nothing is ever imported by a path that comes
from a configuration or a checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from moe_tasks.errors import UserError, nearest

PACKAGES: dict[str, str] = {
    "tasks": "moe_tasks.tasks",
    "sampling": "moe_tasks.tasks",
    "router": "moe_tasks.routing",
    "selection": "moe_tasks.routing",
    "task_vectors": "moe_tasks.representations",
    "experts": "moe_tasks.experts",
    "backbone": "moe_tasks.backbones",
    "metric": "moe_tasks.evaluation",
}

_PARTS: dict[str, dict[str, Any]] = {group: {} for group in PACKAGES}
_Part = TypeVar("_Part")


def register(group: str, name: str) -> Callable[[_Part], _Part]:
    """Decorator that files a part under ``group`` and ``name``.

    Raises:
        ValueError: the group is unknown, or another part already has the name.
    """
    if group not in _PARTS:
        raise ValueError(f"unknown group {group!r}; {nearest(group, _PARTS)}")

    def file(part: _Part) -> _Part:
        if _PARTS[group].setdefault(name, part) is not part:
            raise ValueError(f"{group} {name!r} is registered twice")
        return part

    return file


def lookup(group: str, name: str) -> Any:
    """The part of that name.

    Raises:
        UserError: no such part; the message names the nearest.
    """
    parts = _load(group)
    if name not in parts:
        raise UserError(f"unknown {group} {name!r}; {nearest(name, parts)}")
    return parts[name]


def names(group: str) -> tuple[str, ...]:
    """All names registered in a group, sorted."""
    return tuple(sorted(_load(group)))


@cache
def _import_parts(group: str) -> None:
    package = importlib.import_module(PACKAGES[group])
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    for plugin in importlib.metadata.entry_points(group="moe_tasks.plugins"):
        plugin.load()


def _load(group: str) -> dict[str, Any]:
    _import_parts(group)
    return _PARTS[group]
