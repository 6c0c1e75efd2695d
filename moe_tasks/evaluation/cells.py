"""Cells of a zero-shot evaluation as folders: finished ones are kept, failed ones run again."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from moe_tasks.engines.processes import Processes
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.views import template_names
from moe_tasks.evaluation.zeroshot import CellKey, CellResult, ZeroShot
from moe_tasks.evaluation.zeroshot_config import RouteSource, ZeroshotConfig
from moe_tasks.training.files import write_text
from moe_tasks.workspace import Workspace

RESULT, PREDICTIONS, ERROR = "result.json", "predictions.jsonl", "error.json"
FORMAT = 1

Report = Callable[[str], None]


def run_cells(
    evaluator: ZeroShot, keys: Iterable[CellKey], out: Path, report: Report = print
) -> list[str]:
    """Evaluate cells into folders below ``out``; one that fails does not stop the others.

    Returns:
        What went wrong, one text per cell that failed.
    """
    failed: list[str] = []
    for key in keys:
        folder = out / cell_folder(key)
        identity = _identity(evaluator, key)
        try:
            identity["asked"] = evaluator.asked(key).digest
            if _finished(folder, identity):
                report(f"{_name(key)}: kept, {folder / RESULT}")
                continue
            done = evaluator.cell(key)
            _write(folder, identity, done)
            report(f"{_name(key)}: {_scores(done.result)}")
        except Exception as error:  # the other cells go on, and the table lists this one
            _write_error(folder, identity, error)
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            failed.append(f"{_name(key)}: {kind}{error}")
            report(f"{_name(key)}: failed")
    return failed


def cell_folder(key: CellKey) -> Path:
    """Where a cell lies: system, route (and selection, if not the trained one), task, template."""
    route: str = key.route
    if key.selection is not None:
        text = json.dumps(key.selection, sort_keys=True)
        route += f"-{key.selection['name']}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return Path(*map(_file_name, (key.system, route, key.task, key.template)))


def _file_name(name: str) -> str:
    """``name`` where it can be a file's name; else a readable part of it and a hash."""
    if re.fullmatch(r"[\w][\w.+ -]{0,99}", name) and name == name.strip():
        return name
    readable = re.sub(r"[^\w.-]+", "_", name).strip("._")[:60]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _identity(evaluator: ZeroShot, key: CellKey) -> dict[str, Any]:
    workspace = evaluator.workspace
    return {
        "format": FORMAT,
        "run": workspace.folder.resolve().name,
        "seed": workspace.config.seed,
        **asdict(key),
        "limit": evaluator.config.limit,
        "checkpoint": workspace.checkpoint_step(key.system),
    }


def _finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder has the result of this very cell."""
    try:
        known = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(known.get(name) == value for name, value in identity.items())


def _write(folder: Path, identity: dict[str, Any], done: CellResult) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)  # a result never stands beside other predictions
    lines = (json.dumps(line, ensure_ascii=False) for line in done.predictions)
    write_text(folder / PREDICTIONS, "".join(f"{line}\n" for line in lines))
    text = json.dumps({**identity, **done.result}, indent=1, ensure_ascii=False)
    write_text(folder / RESULT, text + "\n")
    (folder / ERROR).unlink(missing_ok=True)


def _write_error(folder: Path, identity: dict[str, Any], error: Exception) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
    facts = {**identity, "error": str(error), "kind": type(error).__name__}
    if not isinstance(error, UserError):
        facts["traceback"] = traceback.format_exc()
    write_text(folder / ERROR, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _name(key: CellKey) -> str:
    return f"{key.system} ({key.route}), task {key.task!r}, template {key.template!r}"


def _scores(result: dict[str, Any]) -> str:
    parts = [f"{how} {value:.3f}" for how, value in result["scores"].items()]
    chance = "" if result["chance"] is None else f", chance {result['chance']:.3f}"
    cut = [f", {number} {side} cut" for side, number in result["cut"].items() if number]
    return f"{result['metric']} {', '.join(parts)} ({result['rows']} rows{chance}{''.join(cut)})"


def cell_keys(
    evaluator: ZeroShot, systems: Any, routes: Any, tasks: Any, templates: Any
) -> list[CellKey]:
    """All combinations; each argument is a name, a list of names, or ``all``.

    Raises:
        UserError: unknown system, route or task.
    """
    run, collection = evaluator.workspace.config, evaluator.collection
    chosen_tasks = list(collection.roles["test"]) if tasks == "all" else _names(tasks)
    for task in chosen_tasks:
        collection.task(task)
    chosen_systems = list(run.systems) if systems == "all" else _names(systems)
    for system in chosen_systems:
        if system not in run.systems:
            raise UserError(f"unknown system {system!r}; {nearest(system, run.systems)}")
    for route in _names(routes):
        if route not in get_args(RouteSource):
            raise UserError(f"unknown route {route!r}; {nearest(route, get_args(RouteSource))}")
    return [
        CellKey(system, task, template, route, selection)
        for system in chosen_systems
        for route, selection in _routing(evaluator, system, _names(routes))
        for task in chosen_tasks
        for template in _templates(evaluator, task, templates)
    ]


def _names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, (list, tuple)) else [str(value)]


def _routing(
    evaluator: ZeroShot, system: str, routes: Sequence[Any]
) -> list[tuple[Any, dict[str, Any] | None]]:
    """Routes and selection; a dense system has neither: one cell for all that are asked for."""
    if evaluator.workspace.config.systems[system].model == "dense":
        return [("auto", None)]
    return [(route, evaluator.config.selection) for route in routes]


def _templates(evaluator: ZeroShot, task: str, templates: Any) -> list[str]:
    return template_names(evaluator.collection, task) if templates == "all" else _names(templates)


def evaluate_unseen(workspace: Workspace, config: ZeroshotConfig, processes: Processes) -> None:
    """Every system of a run on all its unseen tasks and templates, and the table of it.

    The processes share the cells, each of which writes its folder; the main one writes the table.

    Raises:
        UserError: no cell could be evaluated.
    """
    evaluator = ZeroShot(workspace, workspace.collection, config)
    out = workspace.folder / "zeroshot"
    keys = cell_keys(evaluator, "all", config.routes, "all", "all")
    failed = processes.divided(
        "evaluation",
        len(keys),
        lambda number: run_cells(evaluator, [keys[number]], out, report=lambda line: None),
    )
    processes.on_main(lambda: _conclude(out, [line for lines in failed for line in lines]))


def _conclude(out: Path, failed: Sequence[str]) -> None:
    from analysis.sweep import write_sweep

    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    print(write_sweep([out], out).split("**Per task**")[0].strip())
    print(f"\nPer task and template: {out / 'sweep.md'}, {out / 'table.csv'}, {out / 'sweep.png'}")
