"""Figures of a sweep: per task and system over templates, and systems against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.sweep_cells import SweepCell
from moe_tasks.evaluation.bootstrap import percentile_interval, resampled_means
from moe_tasks.evaluation.gain import ZERO

NUM_BOOTSTRAP = 10_000


@dataclass(frozen=True)
class TaskRow:
    """One system on one task over its templates (and runs).

    Attributes:
        deviation: standard deviation over templates (of means over runs); 0 for one template.
        other_mean: the mean by the other way of ranking; None for open tasks.
    """

    label: str
    task: str
    category: str
    metric: str
    num_templates: int
    num_runs: int
    rows: int
    mean: float
    median: float
    lowest: float
    highest: float
    deviation: float
    other_mean: float | None
    chance: float | None
    majority: float | None


@dataclass(frozen=True)
class Comparison:
    """A system against the base, over what both were asked.

    Attributes:
        difference: mean over tasks of the mean difference over templates and runs.
        ratio: gain of the mean score, ``mean(new) / mean(base) - 1``.
        average_relative_gain: mean over tasks of each task's own; tasks of zero base are left out.
        interval, ratio_interval: 95%, bootstrap over tasks and templates within tasks; None with
            one task.
    """

    label: str
    base: str
    num_tasks: int
    num_pairs: int
    mean: float
    base_mean: float
    difference: float
    interval: tuple[float, float] | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    average_relative_gain: float | None
    num_up: int
    num_down: int


def task_rows(cells: Sequence[SweepCell], how: str) -> list[TaskRow]:
    """A row per system and task, in the order of ``cells``."""
    groups: dict[tuple[str, str], list[SweepCell]] = {}
    for cell in cells:
        groups.setdefault((cell.label, cell.task), []).append(cell)
    return [_task_row(group, how) for group in groups.values()]


def _task_row(cells: list[SweepCell], how: str) -> TaskRow:
    by_template: dict[str, list[float]] = {}
    for cell in cells:
        by_template.setdefault(cell.template, []).append(cell.score(how))
    means = np.array([np.mean(values) for values in by_template.values()])
    other = "mean" if how == "sum" else "sum"
    others = [cell.scores[other] for cell in cells if other in cell.scores]
    first = cells[0]
    return TaskRow(
        label=first.label,
        task=first.task,
        category=first.category,
        metric=first.metric,
        num_templates=len(means),
        num_runs=len({cell.run for cell in cells}),
        rows=max(cell.rows for cell in cells),
        mean=float(means.mean()),
        median=float(np.median(means)),
        lowest=float(means.min()),
        highest=float(means.max()),
        deviation=float(means.std(ddof=1)) if len(means) > 1 else 0.0,
        other_mean=float(np.mean(others)) if others else None,
        chance=_mean([cell.chance for cell in cells]),
        majority=_mean([cell.majority for cell in cells]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def compare(
    cells: Sequence[SweepCell], label: str, base: str, how: str, resample: bool = True
) -> Comparison | None:
    """``label`` over ``base``, paired by run, task and template; None if they share nothing.

    Args:
        resample: whether to work out intervals.
    """
    scores: dict[str, dict[tuple[str, str, str], float]] = {label: {}, base: {}}
    for cell in cells:
        if cell.label in scores:
            scores[cell.label][cell.run, cell.task, cell.template] = cell.score(how)
    both = [key for key in scores[label] if key in scores[base]]
    if not both:
        return None
    pairs: dict[str, list[tuple[float, float]]] = {}
    for key in both:
        pairs.setdefault(key[1], []).append((scores[label][key], scores[base][key]))
    tables = [np.array(values) for values in pairs.values()]  # per task [pairs, (new, base)]
    means = np.array([table.mean(0) for table in tables])  # [tasks, (new, base)]
    new, old = means.mean(0)
    drawn = None
    if resample and len(tables) > 1:
        drawn = resampled_means(tables, NUM_BOOTSTRAP, np.random.default_rng(0))
    gains = [n / b - 1 for n, b in means if b > ZERO]
    positive = drawn is not None and bool((drawn[:, 1] > ZERO).all())
    return Comparison(
        label=label,
        base=base,
        num_tasks=len(tables),
        num_pairs=len(both),
        mean=float(new),
        base_mean=float(old),
        difference=float(new - old),
        interval=None if drawn is None else percentile_interval(drawn[:, 0] - drawn[:, 1]),
        ratio=float(new / old - 1) if old > ZERO else None,
        ratio_interval=percentile_interval(drawn[:, 0] / drawn[:, 1] - 1)
        if drawn is not None and positive
        else None,
        average_relative_gain=float(np.mean(gains)) if gains else None,
        num_up=int((means[:, 0] > means[:, 1] + ZERO).sum()),
        num_down=int((means[:, 0] < means[:, 1] - ZERO).sum()),
    )


def run_ratios(cells: Sequence[SweepCell], label: str, base: str, how: str) -> dict[str, float]:
    """Run -> gain of the mean score of ``label`` over ``base`` in it (``Comparison.ratio``)."""
    by_run: dict[str, list[SweepCell]] = {}
    for cell in cells:
        if cell.label in (label, base):
            by_run.setdefault(cell.run, []).append(cell)
    ratios: dict[str, float] = {}
    for run, own in by_run.items():
        found = compare(own, label, base, how, resample=False)
        if found is not None and found.ratio is not None:
            ratios[run] = found.ratio
    return ratios
