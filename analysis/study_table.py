"""The tables of a study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.agreement import MEASURES
from analysis.study_runs import Study, StudyRow
from moe_tasks.evaluation.bootstrap import percentile_interval, resampled_means
from moe_tasks.evaluation.grid import escaped, markdown_row

_NUM_BOOTSTRAP = 10_000
_EXPLANATION = """\
Ratio: gain of the mean unseen score over {base} in percent, over the tasks that both systems \
scored. ARG: average relative gain, the mean over tasks of each task's own gain; tasks whose base \
is zero, negative or missing are not in it. Intervals are 95% over runs: *t* assumes normal \
ratios, *bootstrap* draws runs with replacement (percentiles, {num} draws, too narrow with few \
runs). Runs of one split share their unseen tasks, so intervals speak of other seeds on these \
splits."""
_ROUTES_EXPLANATION = """\
Routes on the training tasks against human categories, means over runs. Clusters and layers: \
normalised mutual information of categories with clusters of routes, and with each layer's expert. \
Gap: similarity of routes within minus between categories. Neighbour: share of tasks whose nearest \
route is of their category. In brackets the value under permuted categories, then in how many runs \
p < .01, and the largest p."""


@dataclass(frozen=True)
class Spread:
    """Mean over runs with two 95% intervals, None with fewer than two runs."""

    mean: float
    t_interval: tuple[float, float] | None
    bootstrap_interval: tuple[float, float] | None
    num_runs: int
    num_positive: int


def spread(values: Sequence[float], seed: int = 0) -> Spread:
    """Mean of ``values`` (one per run, at least one) and its intervals over runs."""
    mean, num = float(np.mean(values)), len(values)
    positive = sum(value > 0 for value in values)
    if num < 2:
        return Spread(mean, None, None, num, positive)
    half = float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / np.sqrt(num))
    runs = [np.array([[value]]) for value in values]
    drawn = resampled_means(runs, _NUM_BOOTSTRAP, np.random.default_rng(seed))[:, 0]
    return Spread(mean, (mean - half, mean + half), percentile_interval(drawn), num, positive)


def study_markdown(study: Study) -> str:
    """All tables, notes and incomplete runs of a study."""
    parts = ["# Study"]
    for group in dict.fromkeys(row.group for row in study.rows):
        rows = [row for row in study.rows if row.group == group]
        if group:
            parts.append(f"## {escaped(group)}")
        parts += [_extent(rows, study.base), _system_table(rows, study.base)]
        parts.append(_EXPLANATION.format(base=escaped(study.base), num=_NUM_BOOTSTRAP))
        parts += [_run_table(rows, study.base), *_route_tables(rows)]
    if study.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in study.notes))
    if study.incomplete:
        lines = [f"- {escaped(run)}: {escaped(reason)}" for run, reason in sorted(study.incomplete)]
        parts.append("**Incomplete or left out**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _extent(rows: list[StudyRow], base: str) -> str:
    num_runs = len({row.run for row in rows})
    seeds = list(dict.fromkeys(row.seed for row in rows))
    splits = list(dict.fromkeys(row.split for row in rows))
    tasks = sorted({row.num_tasks for row in rows})
    return escaped(
        f"{num_runs} run{'s' if num_runs > 1 else ''}; seeds {', '.join(seeds)}; "
        f"splits {', '.join(splits)}; {'-'.join(map(str, tasks[:1] + tasks[1:][-1:]))} unseen "
        f"tasks; base {base}."
    )


def _system_table(rows: list[StudyRow], base: str) -> str:
    heads = ["system", "runs", "train score", "unseen score", "ratio, %", "95%, t"]
    heads += ["95%, bootstrap", "positive", "ARG, %"]
    body = []
    for label, mine in _by_label(rows).items():
        ratios = [row.ratio for row in mine if row.ratio is not None]
        cells = [label, str(len(mine))]
        cells.append(_number(_mean([row.train_score for row in mine]), ".3f"))
        cells.append(_number(_mean([row.unseen_score for row in mine]), ".3f"))
        if ratios:
            s = spread(ratios)
            cells += [f"{s.mean:+.1f}", _interval(s.t_interval), _interval(s.bootstrap_interval)]
            cells.append(f"{s.num_positive} of {s.num_runs}")
        else:
            cells += ["base" if label == base else "-", "-", "-", "-"]
        cells.append(_number(_mean([row.average_relative_gain for row in mine]), "+.1f"))
        body.append(cells)
    return _table(heads, body, num_left=1)


def _run_table(rows: list[StudyRow], base: str) -> str:
    """Ratio of every run, then means per split where there are several."""
    labels = [label for label in _by_label(rows) if label != base]
    if not labels:
        return "Only the base has scores."
    body = []
    for run in dict.fromkeys(row.run for row in rows):
        of_run = {row.label: row for row in rows if row.run == run}
        first = next(iter(of_run.values()))
        ratios = [of_run[a].ratio if a in of_run else None for a in labels]
        body.append([run, first.seed, first.split, *(_number(r, "+.1f") for r in ratios)])
    splits = list(dict.fromkeys(row.split for row in rows))
    for split in splits if len(splits) > 1 else []:
        means = [
            _mean([row.ratio for row in rows if row.split == split and row.label == label])
            for label in labels
        ]
        body.append(["mean", "", split, *(_number(mean, "+.1f") for mean in means)])
    title = f"Ratio over {escaped(base)} per run, %"
    return f"**{title}**\n\n" + _table(["run", "seed", "split", *labels], body, num_left=3)


def _route_tables(rows: list[StudyRow]) -> list[str]:
    routed = {a: [r for r in mine if r.agreement] for a, mine in _by_label(rows).items()}
    body = [
        [label, str(len(mine)), *(_measure_cell(mine, name) for name in MEASURES)]
        for label, mine in routed.items()
        if mine
    ]
    if not body:
        return []
    heads = ["system", "runs", "clusters", "gap", "neighbour", "layers"]
    return [_ROUTES_EXPLANATION, _table(heads, body, num_left=1)]


def _measure_cell(rows: list[StudyRow], name: str) -> str:
    measures = [row.agreement[name] for row in rows]
    notes = sorted({m.note for m in measures if m.note})
    p_values = [m.p_value for m in measures if m.p_value is not None]
    value, chance = _mean([m.value for m in measures]), _mean([m.chance for m in measures])
    if value is None or not p_values:
        return "; ".join(notes) or "-"
    sure = sum(p < 0.01 for p in p_values)
    extra = f"; {len(measures) - len(p_values)} without" if notes else ""
    return (
        f"{value:.2f} ({_number(chance, '.2f')}), {sure} of {len(p_values)}, "
        f"p ≤ {max(p_values):.3f}{extra}"
    )


def _by_label(rows: list[StudyRow]) -> dict[str, list[StudyRow]]:
    found: dict[str, list[StudyRow]] = {}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    shown = format(value, form)
    return shown.replace("-", "+" if "+" in form else "") if float(shown) == 0 else shown


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]], num_left: int) -> str:
    aligns = ["---"] * num_left + ["---:"] * (len(heads) - num_left)
    lines = [markdown_row([escaped(head) for head in heads]), markdown_row(aligns)]
    lines += [markdown_row([escaped(cell) for cell in row]) for row in body]
    return "\n".join(lines)
