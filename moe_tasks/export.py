"""Write tasks or models for others to use, and read published ones.

``python -m moe_tasks.export out=DIR`` writes a task collection in CrossFit's gym layout;
``python -m moe_tasks.export what=model run=DIR task=NAME out=DIR`` writes the plain Hugging Face
model of one training task, with its tokenizer;
``python -m moe_tasks.export from_crosstaskmoe=DIR out=DIR`` turns a published checkpoint folder
into a saved model of ours, for ``TaskMoE.load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_tasks.cli import main
from moe_tasks.errors import UserError, nearest


def job(folder: Path, values: dict[str, Any]) -> None:
    """Write what ``values['what']`` or a ``from_...`` key names into ``values['out']``."""
    out = Path(values["out"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; choose another folder with out=...")
    _WRITERS[_kind(values)](out, values)
    print(f"wrote {out}")


def _kind(values: Mapping[str, Any]) -> str:
    given = [key for key in _WRITERS if key.startswith("from_") and values[key] is not None]
    if values["what"] is not None:
        given.append("what")
    if len(given) > 1:
        raise UserError(f"give only one of {' and '.join(map(repr, given))}")
    if given and given != ["what"]:
        return given[0]
    kind, valid = values["what"] or "tasks", [k for k in _WRITERS if not k.startswith("from_")]
    if kind not in valid:
        raise UserError(f"'what' is {kind!r}; {nearest(kind, valid)}")
    return kind


def _write_tasks(out: Path, values: Mapping[str, Any]) -> None:
    from moe_tasks import config
    from moe_tasks.tasks.export_gym import write_gym

    write_gym(config.part("tasks", values["tasks"]).build(), out)


def _write_model(out: Path, values: Mapping[str, Any]) -> None:
    from moe_tasks.importing.files import new_folder
    from moe_tasks.workspace import Workspace

    for key in ("run", "task"):
        if values[key] is None:
            raise UserError(f"missing key '{key}': what=model needs run=... and task=...")
    workspace = Workspace.open(values["run"])
    plain = workspace.model(values["system"]).squeeze(values["task"])
    with new_folder(out) as aside:
        plain.save_pretrained(aside)
        workspace.data.tokenizer.save_pretrained(aside)


def _import_crosstaskmoe(out: Path, values: Mapping[str, Any]) -> None:
    from moe_tasks.importing.crosstaskmoe import import_crosstaskmoe

    import_crosstaskmoe(values["from_crosstaskmoe"], out, values["router_mode"])


_WRITERS = {
    "tasks": _write_tasks,
    "model": _write_model,
    "from_crosstaskmoe": _import_crosstaskmoe,
}

if __name__ == "__main__":
    main(job, "export")
