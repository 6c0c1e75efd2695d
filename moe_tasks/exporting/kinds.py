"""What ``python -m moe_tasks.export`` writes, by the keys that are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_tasks import config
from moe_tasks.errors import UserError, nearest
from moe_tasks.exporting.plain import write_all_tasks, write_routed, write_task
from moe_tasks.exporting.submission import write_glue
from moe_tasks.importing.camtl import import_camtl
from moe_tasks.importing.crosstaskmoe import import_crosstaskmoe
from moe_tasks.tasks.export_gym import write_gym
from moe_tasks.workspace import Workspace

ALL_TASKS = "all"


def write(out: Path, values: Mapping[str, Any]) -> None:
    """Write what ``what`` or a ``from_...`` key of ``values`` names into folder ``out``.

    Raises:
        UserError: unknown or missing keys, or anything wrong with what is read.
    """
    _WRITERS[_kind(values)](out, values)


def _kind(values: Mapping[str, Any]) -> str:
    given = [key for key in _WRITERS if key.startswith("from_") and values[key] is not None]
    if values["what"] is not None:
        given.append("what")
    if len(given) > 1:
        raise UserError(f"give only one of {' and '.join(map(repr, given))}")
    if given and given != ["what"]:
        return given[0]
    kind = values["what"] or ("tasks" if values["run"] is None else "model")
    valid = [k for k in _WRITERS if not k.startswith("from_")]
    if kind not in valid:
        raise UserError(f"'what' is {kind!r}; {nearest(kind, valid)}")
    return kind


def _write_tasks(out: Path, values: Mapping[str, Any]) -> None:
    write_gym(config.part("tasks", values["tasks"]).build(), out)


def _write_model(out: Path, values: Mapping[str, Any]) -> None:
    if values["task"] is None:
        raise UserError("missing key 'task': a training task of the run, or tasks=all")
    if values["task"] == ALL_TASKS:
        write_all_tasks(_workspace(values), values["system"], out)
    else:
        write_task(_workspace(values), values["system"], values["task"], out)


def _write_routed(out: Path, values: Mapping[str, Any]) -> None:
    write_routed(_workspace(values), values["system"], out)


def _write_submission(out: Path, values: Mapping[str, Any]) -> None:
    write_glue(_workspace(values), values["system"], out)


def _workspace(values: Mapping[str, Any]) -> Workspace:
    if values["run"] is None:
        raise UserError("missing key 'run': the folder of a finished run")
    return Workspace.open(values["run"])


def _import_crosstaskmoe(out: Path, values: Mapping[str, Any]) -> None:
    import_crosstaskmoe(values["from_crosstaskmoe"], out, values["router_mode"])


def _import_camtl(out: Path, values: Mapping[str, Any]) -> None:
    import_camtl(values["from_camtl"], out)


_WRITERS = {
    "tasks": _write_tasks,
    "model": _write_model,
    "routed": _write_routed,
    "submission": _write_submission,
    "from_crosstaskmoe": _import_crosstaskmoe,
    "from_camtl": _import_camtl,
}
