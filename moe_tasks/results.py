"""What a run leaves behind: scores, gains, agreement of routes with categories, pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from analysis import load_run, report
from analysis.agreement import agreement
from analysis.facts import TASKS_FILE, task_facts
from analysis.figures import gain_bars, route_heatmap
from analysis.routes import snapshot
from moe_tasks.adaptation import PointResult
from moe_tasks.engines.processes import Processes
from moe_tasks.evaluation import metrics
from moe_tasks.evaluation.baseline import majority_score
from moe_tasks.evaluation.gain import Gain, gain_json, relative_gain
from moe_tasks.evaluation.generation import predict
from moe_tasks.evaluation.scores import COLUMNS, Score
from moe_tasks.evaluation.summary import print_summary, summary_markdown
from moe_tasks.grid import best_points
from moe_tasks.multitask import MultiTaskModel
from moe_tasks.tasks.base import Split
from moe_tasks.training.files import write_text
from moe_tasks.training.wandb_log import log_report
from moe_tasks.workspace import Workspace

BASES = ("multitask", "direct")


def write_training(workspace: Workspace, processes: Processes) -> None:
    """``train_scores.csv``: every trained system on the test rows of the training tasks.

    The processes share the tasks; the main one writes.
    """
    file = workspace.folder / "train_scores.csv"
    if processes.on_main(file.exists):
        return
    systems = [name for name, system in workspace.config.systems.items() if system.train]
    cells = [(system, task) for system in systems for task in workspace.data.train_tasks]
    model = lru_cache(maxsize=1)(workspace.model)
    scores = processes.divided(
        "evaluation",
        len(cells),
        lambda number: asdict(_training_score(workspace, model(cells[number][0]), *cells[number])),
    )
    processes.on_main(lambda: write_scores(file, [Score(**score) for score in scores]))


def _training_score(workspace: Workspace, model: MultiTaskModel, system: str, name: str) -> Score:
    data = workspace.data
    task = data.collection.task(name)
    rows = data.collection.slice(name, "test", data.collection.samples[0])
    answers = predict(
        model.squeeze(name),
        data.tokenizer,
        data.tokens.sources(rows),
        workspace.config.generation,
        data.config.max_target,
    )
    value = metrics.score(task.metric, answers, data.references(rows))
    return Score(system, name, task.category, "", "test", task.metric, value)


def write(workspace: Workspace, points: Sequence[PointResult]) -> None:
    """All result files, and the closing table on the screen."""
    folder = workspace.folder
    scores = _adapted_scores(workspace, best_points(points))
    write_scores(folder / "scores.csv", scores)
    gains = _gains(scores, tuple(workspace.config.systems))
    write_text(folder / "gain.json", json.dumps(gain_json(gains), indent=1) + "\n")
    majority = {
        task: majority_score(workspace.collection, task, workspace.collection.samples[0])
        for task in workspace.collection.roles["test"]
    }
    summary = summary_markdown(scores, gains, majority=majority, per_task=True)
    write_text(folder / "summary.md", summary)
    write_facts(workspace)
    write_pictures(workspace)
    print_summary(scores, gains, majority=majority, per_task=len(majority) <= 40)
    print_files(folder)


def _adapted_scores(workspace: Workspace, points: Sequence[PointResult]) -> list[Score]:
    scores = []
    for point in points:
        task = workspace.collection.task(point.task)
        for split, value in (("dev", point.dev), ("test", point.test)):
            scores.append(
                Score(
                    point.system, task.name, task.category, point.sample, split, task.metric, value
                )
            )
    return scores


def _gains(scores: Sequence[Score], systems: Sequence[str]) -> list[Gain]:
    """Each system over the dense ones, ``moe`` first."""
    ordered = sorted(systems, key=lambda name: name != "moe")
    return [
        relative_gain(scores, system, base)
        for base in BASES
        if base in systems
        for system in ordered
        if system != base and system not in BASES[BASES.index(base) + 1 :]
    ]


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """Write score rows as CSV; a missing score is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for score in scores:
        row = asdict(score)
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    write_text(path, text.getvalue())


def write_facts(workspace: Workspace, split: Split = "test") -> None:
    """``tasks.json``: what is known about every task, for the report."""
    collection = workspace.collection
    facts = {
        name: task_facts(
            collection.task(name), collection.examples(name, split, collection.samples[0])
        )
        for name in sorted({*collection.roles["train"], *collection.roles["test"]})
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    write_text(workspace.folder / TASKS_FILE, text + "\n")


def write_pictures(workspace: Workspace) -> None:
    """Routes, their agreement with categories, gains and the report, from the run's files."""
    folder, logging = workspace.folder, workspace.config.logging
    run = load_run(folder)
    found = {}
    for system, table in run.routes.items():
        name = "routes.png" if system == "moe" else f"routes/{system}.png"
        route_heatmap(table, folder / name, title=f"Routes of {system} ({folder.name})")
        found[system] = agreement(snapshot(table)).as_dict()
    write_text(folder / "agreement.json", json.dumps(found, indent=1) + "\n")
    gain = run.gains.get("moe_over_multitask")
    if gain is not None:
        gain_bars(gain, folder / "gain.png")
    if run.routes and logging.report:
        report.write(folder)
        log_report(folder, logging.wandb, logging.project)


def print_files(folder: Path) -> None:
    """Where to look, and what to try next."""
    print(
        f"\nResults in {folder}: report/report.html (what the experts learned), summary.md,\n"
        "routes.png (who uses which expert), gain.png, scores.csv, gain.json, agreement.json.\n"
        "Next, for example: python -m moe_tasks.train +experiment=fewshot router.num_experts=5"
    )
