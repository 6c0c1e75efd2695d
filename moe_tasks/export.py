"""Write tasks or models for others to use.

``python -m moe_tasks.export out=DIR`` writes a task collection in CrossFit's gym layout;
``python -m moe_tasks.export what=model run=DIR task=NAME out=DIR`` writes the plain Hugging Face
model of one training task, with its tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_tasks.cli import main
from moe_tasks.errors import UserError

_KINDS = ("tasks", "model")


def job(folder: Path, values: dict[str, Any]) -> None:
    """Write what ``values['what']`` names into the folder ``values['out']``."""
    out = Path(values["out"])
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another folder with out=...")
    if values["what"] not in _KINDS:
        raise UserError(f"'what' is {values['what']!r}; valid: {', '.join(_KINDS)}")
    if values["what"] == "tasks":
        _write_tasks(out, values["tasks"])
    else:
        _write_model(out, values)
    print(f"wrote {out}")


def _write_tasks(out: Path, tasks: Mapping[str, Any]) -> None:
    from moe_tasks import config
    from moe_tasks.tasks.export_gym import write_gym

    write_gym(config.part("tasks", tasks).build(), out)


def _write_model(out: Path, values: Mapping[str, Any]) -> None:
    from moe_tasks.workspace import Workspace

    for key in ("run", "task"):
        if values[key] is None:
            raise UserError(f"missing key '{key}': what=model needs run=... and task=...")
    workspace = Workspace.open(values["run"])
    plain = workspace.model(values["system"]).squeeze(values["task"])
    plain.save_pretrained(out)
    workspace.data.tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(job, "export")
