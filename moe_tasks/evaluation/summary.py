"""The closing table of a run: scores per category and the gains, on the screen or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from moe_tasks.evaluation.gain import Gain, counts_most
from moe_tasks.evaluation.grid import Grid, broken, escaped, markdown, rich_table, wrapped
from moe_tasks.evaluation.scores import (
    Score,
    as_scores,
    categories_of,
    ordered_systems,
    task_means,
)

MAJORITY = "majority"
_NAMED_TASKS = 6
_GAINS_TITLE = "average relative gain, with bootstrap 95% intervals"


def print_summary(
    rows: Iterable[Any],
    gains: Iterable[Gain],
    *,
    majority: Mapping[str, float | None] | None = None,
    per_task: bool = False,
    split: str = "test",
    console: Console | None = None,
) -> None:
    """Print scores per category, the overall mean, and one line per gain.

    Tables wider than the console are broken into several with fewer systems each.

    Args:
        rows: score rows (see ``scores.as_scores``).
        majority: task -> score of the best constant answer; a column of the table per task.
        per_task: also print one row per task.
        console: where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    for grid in _grids(as_scores(rows), majority, per_task, split):
        for part in broken(grid, console.width):
            console.print(rich_table(part, console.width))
            console.print()
        for note in grid.notes:
            console.print(wrapped(note, console.width, "dim"))
    gains = list(gains)
    if gains:
        console.print(Text(_GAINS_TITLE, style="bold"))
    for gain in gains:
        for line in gain_lines(gain):
            console.print(wrapped(line, console.width))


def summary_markdown(
    rows: Iterable[Any],
    gains: Iterable[Gain],
    *,
    majority: Mapping[str, float | None] | None = None,
    per_task: bool = False,
    split: str = "test",
) -> str:
    """What ``print_summary`` prints, as Markdown."""
    parts = [markdown(grid) for grid in _grids(as_scores(rows), majority, per_task, split)]
    lines = []
    for gain in gains:
        lines = lines or [f"**{_GAINS_TITLE}**", ""]
        head, *rest = (escaped(line.strip()) for line in gain_lines(gain))
        lines += [f"- {head}", *(f"  - {line}" for line in rest)]
    return "\n\n".join([*parts, "\n".join(lines)]).rstrip() + "\n"


def gain_lines(gain: Gain) -> list[str]:
    """A gain in plain words: the average relative gain, the gain of the mean, the task that counts
    most (one that failed to adapt can outweigh all others), what is left out.

    The first line reads ``moe over multitask: +7.5% [2.1, 13.0] over 19 tasks``.
    """
    head = f"{gain.system} over {gain.base}: "
    if gain.average is None:
        lines = [head + "no average relative gain: no task has a base to divide by"]
    else:
        lines = [head + _percent(gain.average, gain.interval) + f" over {_tasks(gain.num_tasks)}"]
    num_common = gain.num_up + gain.num_down + gain.num_equal
    if gain.gain_of_mean is not None:
        lines.append(
            f"  mean score: {_percent(gain.gain_of_mean, gain.gain_of_mean_interval)} over "
            f"{_tasks(num_common)} ({gain.num_up} up, {gain.num_down} down, "
            f"{gain.num_equal} equal)"
        )
    most = counts_most(gain)
    if most is not None:
        task, average = most
        own = _signed(gain.per_task[task].gain or 0.0)
        lines.append(f"  counts most: {task}, {own}; without it {_signed(average)}")
    if gain.left_out:
        lines.append(f"  {_tasks(gain.num_left_out)} left out: {_reasons(gain)}")
    unpaired = sum(task.num_unpaired for task in gain.per_task.values())
    if unpaired:
        lines.append(f"  {unpaired} scores not used: only one of the two scored that sample")
    return lines


def _signed(value: float) -> str:
    return f"{_zero(100 * value):+.1f}%"


def _percent(value: float, interval: tuple[float, float] | None) -> str:
    shown = _signed(value)
    if interval is None:
        return shown + " (no interval)"
    low, high = (_zero(100 * bound) for bound in interval)
    return f"{shown} [{low:.1f}, {high:.1f}]"


def _zero(percent: float) -> float:
    """No ``-0.0`` in print."""
    return 0.0 if abs(percent) < 0.05 else percent


def _tasks(number: int) -> str:
    return f"{number} task" if number == 1 else f"{number} tasks"


def _reasons(gain: Gain) -> str:
    groups: dict[str, list[str]] = {}
    for task, out in gain.left_out.items():
        groups.setdefault(out.reason, []).append(task)
    return "; ".join(f"{reason}: {_some(tasks)}" for reason, tasks in groups.items())


def _some(names: Sequence[str]) -> str:
    if len(names) <= _NAMED_TASKS:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED_TASKS])} and {len(names) - _NAMED_TASKS} more"


def _grids(
    scores: list[Score],
    majority: Mapping[str, float | None] | None,
    per_task: bool,
    split: str,
) -> list[Grid]:
    scores = [s for s in scores if s.split == split]
    grids = [_task_grid(scores, majority or {}, split)] if per_task else []
    return [*grids, _category_grid(scores, split)]


def _task_grid(scores: list[Score], majority: Mapping[str, float | None], split: str) -> Grid:
    means = task_means(scores, split)
    if majority:
        means[MAJORITY] = {t: v for t, v in majority.items() if v is not None}
    systems = ((MAJORITY,) if majority else ()) + tuple(ordered_systems(scores))
    metrics = {s.task: s.metric for s in scores}
    order = sorted(categories_of(scores).items(), key=lambda item: (item[1], item[0]))
    rows = [
        ((task, _short(metrics[task])), tuple(_cell(means[s].get(task)) for s in systems))
        for task, _ in order
    ]
    return Grid(f"unseen tasks, {split} scores", ("task", "metric"), systems, rows, False)


def _category_grid(scores: list[Score], split: str) -> Grid:
    means = task_means(scores, split)
    systems = tuple(ordered_systems(scores))
    groups: dict[str, list[str]] = {}
    for task, category in categories_of(scores).items():
        groups.setdefault(category, []).append(task)
    everything = [task for tasks in groups.values() for task in tasks]
    labelled = [*sorted(groups.items()), ("all", everything)]
    rows = [
        ((label, str(len(tasks))), tuple(_mean_cell(means[s], tasks) for s in systems))
        for label, tasks in labelled
    ]
    notes = tuple(
        f"* {system}: {_tasks(len(missing))} without a score, not in the mean: {_some(missing)}"
        for system in systems
        if (missing := [task for task in everything if task not in means[system]])
    )
    title = f"unseen tasks, mean {split} score"
    return Grid(title, ("category", "tasks"), systems, rows, True, notes)


def _short(metric: str) -> str:
    return metric.replace("Classification-", "Class-").replace("-Correlation", "")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean_cell(means: Mapping[str, float], tasks: Sequence[str]) -> str:
    found = [means[task] for task in tasks if task in means]
    if not found:
        return "-"
    return f"{sum(found) / len(found):.3f}" + ("*" if len(found) < len(tasks) else "")
