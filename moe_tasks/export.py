"""Write tasks or models for others to use, and read published ones.

``run=DIR task=NAME out=DIR`` writes the plain Hugging Face model of one training task, and with
``tasks=all`` instead those of all; ``run=DIR what=routed out=DIR`` the routed model, routes fixed,
without unused experts; ``run=DIR what=submission system=NAME out=DIR`` an encoder's answers to
GLUE's test files; ``out=DIR`` alone a task collection in CrossFit's gym layout;
``from_crosstaskmoe=DIR out=DIR`` and ``from_camtl=DIR out=DIR`` turn a published checkpoint folder
into a saved model of ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from moe_tasks.cli import main
from moe_tasks.errors import UserError


def job(folder: Path, values: dict[str, Any]) -> None:
    """Write what ``values`` ask for into the folder ``values['out']``."""
    from moe_tasks.exporting.kinds import write  # after the keys were checked: it loads torch

    out = Path(values["out"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; choose another folder with out=...")
    write(out, values)
    print(f"wrote {out}")


if __name__ == "__main__":
    # 'tasks' chooses a collection, as in training; here it may also say which tasks of a run.
    sys.argv = ["task=all" if argument == "tasks=all" else argument for argument in sys.argv]
    main(job, "export")
