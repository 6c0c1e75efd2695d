"""Compute the task vectors of a collection and write them into one file, for training to load.

``python -m moe_tasks.represent task_vectors=fisher tasks=... backbone=... out=FILE.safetensors``
prepares the initial weights as training does; ``run=DIR`` takes those of a run folder, with its
tasks, data settings and seed. ``fitted=OTHER.safetensors`` uses an earlier file's transformation.
A stopped command goes on where it was when it is given again. Training then loads the file:
``python -m moe_tasks.train task_vectors=file task_vectors.path=FILE.safetensors``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_tasks.cli import main
from moe_tasks.errors import UserError

if TYPE_CHECKING:
    from moe_tasks.workspace import Workspace


def job(folder: Path, values: dict[str, Any]) -> None:
    """Write ``values['out']``; what to go on from after a stop lies in ``folder``."""
    from moe_tasks.representations.collection import computed, represent
    from moe_tasks.representations.vector_file import read_vectors
    from moe_tasks.training.lock import RunLock

    out, run, fitted = (values.pop(key) for key in ("out", "run", "fitted"))
    resume = values.pop("resume") == "auto"
    kind = values.pop("task_vectors")
    if out is None:
        raise UserError("missing key 'out': give it on the command line, out=FILE.safetensors")
    if Path(out).exists():
        raise UserError(f"{out} exists; choose another file with out=...")
    computed(kind)  # mistakes show before anything is written
    if fitted is not None:
        read_vectors(fitted)
    workspace = _workspace(folder, values) if run is None else _opened(run)
    with RunLock(folder):
        if run is None:
            _prepare(workspace, values, resume)
        print(represent(workspace, kind, folder / "task_vectors", Path(out), fitted))


def _workspace(folder: Path, values: dict[str, Any]) -> Workspace:
    from moe_tasks.run_config import RunConfig
    from moe_tasks.workspace import Workspace

    values["systems"] = {"direct": {"model": "dense", "train": False}}
    values["task_vectors"] = {"name": "learned"}  # the same weights serve any other
    workspace = Workspace(folder, RunConfig.parse(values))
    _ = workspace.collection
    return workspace


def _prepare(workspace: Workspace, values: dict[str, Any], resume: bool) -> None:
    """Initial weights as training with these values makes them."""
    import torch

    from moe_tasks.experiment import prepare_backbones

    workspace.claim(values, resume)
    if workspace.config.num_threads is not None:
        torch.set_num_threads(workspace.config.num_threads)
    prepare_backbones(workspace, resume)


def _opened(run: str) -> Workspace:
    from moe_tasks.workspace import Workspace

    return Workspace.open(run)


if __name__ == "__main__":
    main(job, "represent")
