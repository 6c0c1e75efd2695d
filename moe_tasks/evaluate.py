"""Zero-shot evaluation of a run's systems: ``python -m moe_tasks.evaluate run=DIR task=NAME``.

A cell is one system (``system=``), its route to the task (``route=``), one task and one of its
templates; ``all`` or a list makes several. Every cell gets a folder below ``out`` with
``predictions.jsonl`` and ``result.json``; given again, the command runs those that are missing or
failed. ``--multirun task=a,b system=moe,multitask`` sweeps, ``python -m analysis.sweep OUT``
gathers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from moe_tasks.cli import EXIT_MISTAKE, main
from moe_tasks.errors import UserError, nearest

if TYPE_CHECKING:
    from moe_tasks.evaluation.zeroshot import ZeroShot

OWN = ("run", "task", "template", "system", "route", "out", "batch_size", "limit")
_GROUPS = ("selection", "tasks")  # of a run's keys, those that may be given anew


def job(folder: Path, values: dict[str, Any]) -> None:
    """Evaluate the cells that ``values`` name; a sweep's folder for the job is not used."""
    given = _given()
    for key in given:
        if key.split(".")[0] not in (*OWN, *_GROUPS, "experiment", "hydra"):
            raise UserError(f"'{key}' is settled by the run: {nearest(key, (*OWN, *_GROUPS))}")
    if folder.name.startswith(".job") and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    evaluate({name: values[name] for name in OWN}, *(_own(values, given, g) for g in _GROUPS))


def evaluate(
    keys: dict[str, Any], selection: dict[str, Any] | None, tasks: dict[str, Any] | None
) -> None:
    """Evaluate cells.

    Args:
        keys: values of ``OWN``.
        selection, tasks: instead of the run's.

    Raises:
        UserError: a mistake that concerns all cells, or afterwards if any cell failed.
    """
    import json

    from moe_tasks.evaluation.cells import cell_keys, run_cells

    text = json.dumps([keys["run"], keys["batch_size"], keys["limit"], selection, tasks])
    evaluator = _evaluator(text)
    chosen = cell_keys(evaluator, *(keys[k] for k in ("system", "route", "task", "template")))
    run = evaluator.workspace.folder
    out = run / "zeroshot" if keys["out"] is None else Path(keys["out"]) / run.resolve().name
    failed = run_cells(evaluator, chosen, out)
    if failed:
        after = "" if len(failed) < 2 else f"\n{len(failed)} of {len(chosen)} cells failed"
        raise UserError("\n".join(failed) + after)


@lru_cache(maxsize=1)
def _evaluator(text: str) -> ZeroShot:
    """Kept from one job of a sweep to the next: reading data and weights takes longest."""
    import json

    from moe_tasks import config as configuration
    from moe_tasks.evaluation.zeroshot import ZeroShot, ZeroshotConfig
    from moe_tasks.workspace import Workspace

    run, batch_size, limit, selection, tasks = json.loads(text)
    workspace = Workspace.open(run)
    values = {"batch_size": batch_size, "limit": limit, "selection": selection}
    config = configuration.from_mapping(ZeroshotConfig, values)
    if selection is not None:
        configuration.part("selection", selection)
    if tasks is None:
        return ZeroShot(workspace, workspace.collection, config)
    return ZeroShot(workspace, configuration.part("tasks", tasks).build(), config)


def _given() -> list[str]:
    """Keys on the command line; the other keys of a run come from its folder."""
    overrides = HydraConfig.get().overrides.task
    return [override.split("=")[0].lstrip("+~").split("@")[0] for override in overrides]


def _own(values: dict[str, Any], given: list[str], group: str) -> dict[str, Any] | None:
    named = any(key == group or key.startswith(f"{group}.") for key in given)
    return values[group] if named else None


def table(folder: Path) -> None:
    """What the cells of a sweep say together."""
    from analysis import sweep

    sweep.main([str(folder)])


def check(arguments: Sequence[str]) -> None:
    """``UserError`` where a sweep over runs has no folder for what they say together."""
    given = {name: value for name, _, value in (a.partition("=") for a in arguments)}
    if "," in given.get("run", "") and "out" not in given:
        raise UserError("several runs need out=DIR, where their cells and the table go")


if __name__ == "__main__":
    from moe_tasks import evaluate as module  # launchers find functions by the module's name

    try:
        check(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    main(module.job, "evaluate", after_sweep=module.table)
