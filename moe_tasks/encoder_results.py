"""What a run of encoders with heads leaves behind: scores per task, sizes, rows that trained."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from analysis.heads import SYSTEMS_FILE
from analysis.runs import TRAIN_SCORES
from analysis.scores_figure import scores_figure
from moe_tasks.backbones import load_dense
from moe_tasks.conditional.batches import rows_table
from moe_tasks.conditional.freezing import freeze_layers
from moe_tasks.conditional.labels import head_of, is_choice
from moe_tasks.conditional.model import CAMTL
from moe_tasks.evaluation import glue, metrics
from moe_tasks.evaluation.baseline import chance_score, majority_score
from moe_tasks.evaluation.grid import Grid, broken, markdown, rich_table
from moe_tasks.evaluation.heads import scored_answers
from moe_tasks.evaluation.scores import Score, task_means
from moe_tasks.registry import lookup
from moe_tasks.results import write_facts, write_pictures, write_scores
from moe_tasks.tasks.base import Split
from moe_tasks.training.files import write_text
from moe_tasks.training.optimizer import freeze
from moe_tasks.workspace import Workspace


@dataclass
class Cost:
    """What a system took; of several models that are one system, their sums.

    Attributes:
        parameters, trained: of all its models.
        steps: updates.
        drawn, used: task -> rows drawn, and of these the ones that were trained on.
    """

    parameters: int = 0
    trained: int = 0
    steps: int = 0
    drawn: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)

    def add(self, other: Cost) -> None:
        self.parameters += other.parameters
        self.trained += other.trained
        self.steps += other.steps
        self.drawn.update(other.drawn)
        self.used.update(other.used)


def write(workspace: Workspace) -> None:
    """Scores, sizes and a picture into the run folder, the tables also on the screen."""
    scores: list[Score] = []
    parts: list[Score] = []
    costs: dict[str, Cost] = {}
    for name, system in workspace.config.systems.items():
        if not system.train:
            continue
        model, listed = workspace.model(name), system.part_of or name
        assert isinstance(model, CAMTL)
        own, parts_of_own = _scores(workspace, model, listed)
        scores += own
        parts += parts_of_own
        costs.setdefault(listed, Cost()).add(_cost(workspace, name, model))
    folder, split = workspace.folder, _split(workspace)
    write_scores(folder / TRAIN_SCORES, scores)
    encoder = load_dense(workspace.initial_folder(1)).num_parameters()
    facts = {
        "encoder": encoder,
        "systems": {name: asdict(cost) for name, cost in costs.items()},
        "parts": [[part.system, part.task, part.metric, part.score] for part in parts],
    }
    write_text(folder / SYSTEMS_FILE, json.dumps(facts, indent=1) + "\n")
    means = task_means(scores, split)
    grids = [_score_grid(workspace, means, split), _cost_grid(costs, encoder)]
    averages = {name: [_average(column)] for name, column in means.items()}
    title, note = f"Scores on {split} rows", f"{folder.name}; each task's best in bold"
    scores_figure(means, averages, folder / "scores.png", title=title, note=note)
    tables = [f"{name}\n{rows_table(cost.drawn, cost.used)}" for name, cost in costs.items()]
    rows = "\n\n".join(f"```\n{table}\n```" for table in tables)
    write_text(folder / "summary.md", "\n\n".join([*map(markdown, grids), rows]) + "\n")
    write_facts(workspace, split)
    if any(system.model == "moe" for system in workspace.config.systems.values()):
        write_pictures(workspace)
    _print(grids, [t for t, c in zip(tables, costs.values(), strict=True) if c.drawn != c.used])
    print(
        f"\nResults in {folder}: summary.md, scores.png, {TRAIN_SCORES}, {SYSTEMS_FILE}.\n"
        "One table of several runs and seeds: python -m analysis.heads RUN RUN ..."
    )


def _split(workspace: Workspace) -> Split:
    """Test rows where a collection has them; GLUE's have no labels."""
    collection = workspace.collection
    sample = collection.samples[0]
    have = all(collection.has_rows(task, "test", sample) for task in workspace.data.train_tasks)
    return "test" if have else "dev"


def _scores(workspace: Workspace, model: CAMTL, listed: str) -> tuple[list[Score], list[Score]]:
    """A model's score for every task, and for a mean of several metrics those of each."""
    collection, split = workspace.collection, _split(workspace)
    scores: list[Score] = []
    parts: list[Score] = []
    for name, task in collection.tasks.items():
        if head_of(collection, name) not in model.task_names:
            continue
        rows = collection.slice(name, split, collection.samples[0])
        found, accepted = scored_answers(model, workspace.data, name, rows)
        for metric in (task.metric, *lookup("metric", task.metric).parts):
            value = metrics.score(metric, found, accepted)
            score = Score(listed, name, task.category, "", split, metric, value)
            (scores if metric == task.metric else parts).append(score)
    return scores, parts


def _cost(workspace: Workspace, name: str, model: CAMTL) -> Cost:
    system, training = workspace.config.systems[name], workspace.training(name)
    freeze(model, training.freeze)
    if system.freeze_layers is not None:
        freeze_layers(model, system.freeze_layers)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    state = workspace.checkpoint(name).state()["batches"]
    return Cost(
        parameters=sum(size for size, _ in sizes),
        trained=sum(size for size, trains in sizes if trains),
        steps=training.steps,
        drawn=state["drawn"],
        used=state.get("used", state["drawn"]),
    )


def _score_grid(
    workspace: Workspace, means: Mapping[str, Mapping[str, float]], split: Split
) -> Grid:
    collection = workspace.collection
    sample, tasks = collection.samples[0], collection.tasks
    majority = {
        t: chance_score(collection, t, split)
        if is_choice(collection, t)  # no option is the same in two questions
        else majority_score(collection, t, sample, split, head_of(collection, t))
        for t in tasks
    }
    columns = {**means, "majority": majority}
    rows = [
        ((name, task.metric), tuple(_shown(column.get(name)) for column in columns.values()))
        for name, task in tasks.items()
    ]
    spread = [_shown(statistics.pstdev(column.values())) for column in columns.values()]
    average = [_shown(_average(column)) for column in columns.values()]
    rows += [(("spread over tasks", ""), tuple(spread)), (("average", ""), tuple(average))]
    title = f"scores on {split} rows"
    return Grid(title, ("task", "metric"), tuple(columns), rows, last_is_total=False)


def _average(column: Mapping[str, float]) -> float:
    return glue.average({task: {"score": value} for task, value in column.items()})


def _cost_grid(costs: Mapping[str, Cost], encoder: int) -> Grid:
    def row(name: str, unit: str, values: Sequence[str]) -> Any:
        return (name, unit), tuple(values)

    found = costs.values()
    rows = [
        row("parameters", "x encoder", [f"{c.parameters / encoder:.2f}" for c in found]),
        row("trained", "x encoder", [f"{c.trained / encoder:.2f}" for c in found]),
        row("trained per task", "in 1,000", [f"{_per_task(c) / 1e3:,.0f}" for c in found]),
        row("updates", "steps", [f"{c.steps:,}" for c in found]),
        row("rows drawn", "", [f"{sum(c.drawn.values()):,}" for c in found]),
        row("rows trained on", "", [f"{sum(c.used.values()):,}" for c in found]),
    ]
    return Grid("what they took", ("", "unit"), tuple(costs), rows, last_is_total=False)


def _per_task(cost: Cost) -> float:
    return cost.trained / len(cost.used)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _print(grids: Sequence[Grid], tables: Sequence[str]) -> None:
    console = Console(highlight=False)
    for grid in grids:
        for part in broken(grid, console.width):
            console.print(rich_table(part, console.width))
            console.print()
    for table in tables:
        console.print(table, markup=False)
