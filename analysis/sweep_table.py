"""The tables of a sweep as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from analysis.sweep_cells import Sweep
from analysis.sweep_stats import NUM_BOOTSTRAP, Comparison, TaskRow
from moe_tasks.evaluation.grid import escaped, markdown_row

_HOW = {"sum": "summed log-probability", "mean": "log-probability per token"}
_TASKS = """\
Each cell: mean over templates ± standard deviation over templates (median; lowest to highest). \
Options are ranked by {how}; tasks without options are scored on generated answers. Chance: a \
random option. Majority: the constant answer that is right most often on these rows (the option's \
place where options differ between rows)."""
_COMPARISON = """\
Paired by run, task and template. Difference: mean over tasks of the mean over templates and runs. \
Gain: mean(new)/mean(base) - 1; ARG: mean over tasks of each task's own gain, tasks of zero base \
left out. Intervals are 95%, bootstrap over tasks and, within tasks, over templates and runs \
({num} draws); they say nothing about other training seeds."""
_RUNS = """\
Gain of the mean score over {base} within each run, in percent. Interval: 95%, t over runs; of few \
runs it is wide, and it alone speaks of other training seeds."""


def sweep_markdown(
    sweep: Sweep,
    rows: Sequence[TaskRow],
    comparisons: Sequence[Comparison],
    by_run: Mapping[str, Mapping[str, float]],
    how: str,
) -> str:
    """All tables, and the cells that failed.

    Args:
        by_run: system -> run -> its gain over the base.
    """
    parts = ["# Zero-shot evaluation", _extent(sweep, rows), _overall(rows)]
    if comparisons:
        parts += [_compared(comparisons), _COMPARISON.format(num=NUM_BOOTSTRAP)]
    if comparisons and len(sweep.runs) > 1:
        base = escaped(comparisons[0].base)
        parts += [_by_run(sweep.runs, by_run), _RUNS.format(base=base)]
    parts += [_per_task(rows), _TASKS.format(how=_HOW[how])]
    if sweep.failed:
        lines = [f"- {escaped(cell)}: {escaped(reason)}" for cell, reason in sweep.failed]
        parts.append(f"**Failed or left out ({len(lines)})**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _extent(sweep: Sweep, rows: Sequence[TaskRow]) -> str:
    tasks, num_runs = {row.task for row in rows}, len(sweep.runs)
    templates = {(cell.task, cell.template) for cell in sweep.cells}
    num_cut = sum(cell.is_cut for cell in sweep.cells)
    cut = f" In {num_cut} cells inputs or options were cut (cut in result.json)." if num_cut else ""
    return (
        f"{len(sweep.cells)} cells: {len(tasks)} tasks in {len(templates)} wordings, "
        f"{len(sweep.labels)} systems, {num_runs} run{'s' if num_runs > 1 else ''}.{cut}"
    )


def _overall(rows: Sequence[TaskRow]) -> str:
    heads = ["system", "tasks", "mean", "median", "spread over templates"]
    body = []
    for label, own in _by_label(rows).items():
        several = [row.deviation for row in own if row.num_templates > 1]
        spread = _number(fmean(several)) if several else "-"
        body.append([label, *_middle([row.mean for row in own]), spread])
    body += [[name, *_middle(values), "-"] for name, values in _baselines(rows).items()]
    return "**Over tasks**\n\n" + _table(heads, body, num_left=1)


def _middle(values: Sequence[float]) -> list[str]:
    return [str(len(values)), _number(fmean(values)), _number(median(values))]


def _baselines(rows: Sequence[TaskRow]) -> dict[str, list[float]]:
    first = {row.task: row for row in reversed(rows)}.values()
    found = {
        "chance": [row.chance for row in first if row.chance is not None],
        "majority": [row.majority for row in first if row.majority is not None],
    }
    return {name: values for name, values in found.items() if values}


def _compared(comparisons: Sequence[Comparison]) -> str:
    heads = ["system", "base", "tasks", "difference", "95%", "gain, %", "95%", "ARG, %"]
    heads += ["tasks up / down"]
    body = [
        [
            c.label,
            c.base,
            str(c.num_tasks),
            f"{c.difference:+.3f}",
            _interval(c.interval, 1, "+.3f"),
            _percent(c.ratio),
            _interval(c.ratio_interval, 100, "+.1f"),
            _percent(c.average_relative_gain),
            f"{c.num_up} / {c.num_down}",
        ]
        for c in comparisons
    ]
    return "**Systems against the base**\n\n" + _table(heads, body, num_left=2)


def _by_run(runs: Sequence[str], by_run: Mapping[str, Mapping[str, float]]) -> str:
    from analysis.study_stats import spread  # imports scipy, which takes longer than the rest

    body = []
    for label, ratios in by_run.items():
        ends = ["-", "-", "-"]
        if ratios:
            over = spread(list(ratios.values()))
            interval = _interval(over.t_interval, 100, "+.1f")
            ends = [_percent(over.mean), interval, f"{over.num_positive} of {over.num_runs}"]
        body.append([label, *(_percent(ratios.get(run)) for run in runs), *ends])
    heads = ["system", *runs, "mean", "95%", "positive"]
    return "**Runs, gain in %**\n\n" + _table(heads, body, num_left=1)


def _per_task(rows: Sequence[TaskRow]) -> str:
    labels = list(_by_label(rows))
    by_task: dict[str, dict[str, TaskRow]] = {}
    for row in sorted(rows, key=lambda row: (row.category, row.task)):
        by_task.setdefault(row.task, {})[row.label] = row
    heads = ["task", "category", "metric", "templates", *labels, "chance", "majority"]
    body = []
    for task, own in by_task.items():
        first = next(iter(own.values()))
        templates = str(max(row.num_templates for row in own.values()))
        cells = [_cell(own.get(label)) for label in labels]
        ends = [_number(first.chance), _number(first.majority)]
        body.append([task, first.category, first.metric, templates, *cells, *ends])
    return "**Per task**\n\n" + _table(heads, body, num_left=3)


def _cell(row: TaskRow | None) -> str:
    if row is None:
        return "-"
    if row.num_templates == 1:
        return f"{row.mean:.3f}"
    extent = f"{row.median:.3f}; {row.lowest:.3f} to {row.highest:.3f}"
    return f"{row.mean:.3f} ± {row.deviation:.3f} ({extent})"


def _by_label(rows: Sequence[TaskRow]) -> dict[str, list[TaskRow]]:
    found: dict[str, list[TaskRow]] = {}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _interval(interval: tuple[float, float] | None, factor: float, form: str) -> str:
    if interval is None:
        return "-"
    low, high = (format(factor * bound, form) for bound in interval)
    return f"{low} to {high}"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]], num_left: int) -> str:
    aligns = ["---"] * num_left + ["---:"] * (len(heads) - num_left)
    lines = [markdown_row([escaped(head) for head in heads]), markdown_row(aligns)]
    lines += [markdown_row([escaped(cell) for cell in row]) for row in body]
    return "\n".join(lines)
