"""The tables of a study as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.agreement import MEASURES
from analysis.study_runs import Study, StudyRow, order
from analysis.study_stats import NUM_BOOTSTRAP, holm, spread, t_test
from analysis.study_units import mean
from moe_tasks.evaluation.grid import escaped, markdown_row

_EXPLANATION = """\
Each run is compared with {base} of the same seed and split. Ratio: gain of the mean unseen score \
in percent, over the tasks that both scored. ARG: average relative gain, the mean over tasks of \
each task's own gain; tasks whose base is zero, negative or missing are not in it. Intervals are \
95% over runs: *t* assumes normal ratios, *bootstrap* draws runs with replacement (percentiles, \
{num} draws, too narrow with few runs)."""
_SHARED_SPLITS = """\
 Runs of one split share their unseen tasks, so intervals speak of other seeds on these splits."""
_ADJUSTED = """\
*p, Holm*: t test over runs (at least 3) that the mean ratio is zero, adjusted by Holm's method \
for the {num} comparisons in this table: if no row differed from its base, the chance of even one \
p at or below .05 would be at most 5%. The intervals are not adjusted: of many, some miss zero by \
chance, and the best of many rows tends to look better than it is."""
_ROUTES_EXPLANATION = """\
Routes on the training tasks against human categories, means over runs. Clusters and layers: \
normalised mutual information of categories with clusters of routes, and with each layer's expert. \
Gap: similarity of routes within minus between categories. Neighbour: share of tasks whose nearest \
route is of their category. In brackets the value under permuted categories, then in how many runs \
p < .01, and the largest p."""


def study_markdown(study: Study) -> str:
    """All tables, notes and incomplete runs of a study."""
    parts = ["# Study"]
    for group in dict.fromkeys(row.group for row in study.rows):
        rows = [row for row in study.rows if row.group == group]
        if group:
            parts.append(f"## {escaped(group)}")
        parts += [_extent(rows, study.base), *_system_table(rows, study.base)]
        parts += [_run_table(rows, study.base), *_route_tables(rows)]
    if study.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in study.notes))
    if study.incomplete:
        lines = [f"- {escaped(run)}: {escaped(reason)}" for run, reason in sorted(study.incomplete)]
        parts.append("**Incomplete or left out**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _extent(rows: list[StudyRow], base: str) -> str:
    num_runs = len({run for row in rows for run in row.runs})
    seeds = sorted({row.seed for row in rows}, key=order)
    splits = sorted({row.split for row in rows}, key=order)
    tasks = sorted({row.num_tasks for row in rows})
    return escaped(
        f"{num_runs} run{'s' if num_runs > 1 else ''}; seeds {', '.join(seeds)}; "
        f"splits {', '.join(splits)}; {'-'.join(map(str, tasks[:1] + tasks[1:][-1:]))} unseen "
        f"tasks; base {base}."
    )


def _system_table(rows: list[StudyRow], base: str) -> list[str]:
    """Means over runs with intervals and p-values, and what they mean."""
    heads = ["system", "runs", "train score", "unseen score", "ratio, %", "95%, t"]
    heads += ["95%, bootstrap", "positive", "p, Holm", "ARG, %"]
    labels = _by_label(rows)
    ratios = {a: [r.ratio for r in mine if r.ratio is not None] for a, mine in labels.items()}
    p_values = [t_test(values) for values in ratios.values()]
    adjusted = dict(zip(labels, holm(p_values), strict=True))
    body = []
    for label, mine in labels.items():
        cells = [label, str(len(mine))]
        cells.append(_number(mean(row.train_score for row in mine), ".3f"))
        cells.append(_number(mean(row.unseen_score for row in mine), ".3f"))
        if ratios[label]:
            s = spread(ratios[label])
            cells += [f"{s.mean:+.1f}", _interval(s.t_interval), _interval(s.bootstrap_interval)]
            cells += [f"{s.num_positive} of {s.num_runs}", _p_value(adjusted[label])]
        else:
            cells += ["base" if mine[0].is_base else "-", "-", "-", "-", "-"]
        cells.append(_number(mean(row.average_relative_gain for row in mine), "+.1f"))
        body.append(cells)
    parts = [_table(heads, body, num_left=1)]
    shared = len({row.point for row in rows}) > len({row.split for row in rows})
    explanation = _EXPLANATION.format(base=escaped(base), num=NUM_BOOTSTRAP)
    parts.append(explanation + (_SHARED_SPLITS if shared else ""))
    num_tests = sum(p is not None for p in p_values)
    return parts + ([_ADJUSTED.format(num=num_tests)] if num_tests else [])


def _run_table(rows: list[StudyRow], base: str) -> str:
    """Ratios by seed and split, then means per split where there are several."""
    labels = {a: mine for a, mine in _by_label(rows).items() if not mine[0].is_base}
    if not labels:
        return "Only the base has scores."
    points = sorted({r.point for r in rows}, key=lambda p: (order(p[1]), order(p[0]), p[2]))
    splits = list(dict.fromkeys(split for _, split, _ in points))
    several, shared = len(splits) > 1, len(points) > len(splits) > 1
    heads = [run or (f"{split} / {seed}" if several else seed) for seed, split, run in points]
    body = []
    for label, mine in labels.items():
        ratios = [mean(r.ratio for r in mine if r.point == point) for point in points]
        if shared:
            ratios += [mean(r.ratio for r in mine if r.split == split) for split in splits]
        body.append([label, *(_number(ratio, "+.1f") for ratio in ratios)])
    heads += [f"mean, split {split}" for split in splits] if shared else []
    title = f"Ratio over {escaped(base)} per {'split / seed' if several else 'seed'}, %"
    return f"**{title}**\n\n" + _table(["system", *heads], body, num_left=1)


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
    value, chance = mean(m.value for m in measures), mean(m.chance for m in measures)
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


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    shown = format(value, form)
    return shown.replace("-", "+" if "+" in form else "") if float(shown) == 0 else shown


def _p_value(value: float | None) -> str:
    return "-" if value is None else "≤ 0.001" if value <= 0.001 else f"{value:.3f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}"


def _table(heads: Sequence[str], body: Sequence[Sequence[str]], num_left: int) -> str:
    aligns = ["---"] * num_left + ["---:"] * (len(heads) - num_left)
    lines = [markdown_row([escaped(head) for head in heads]), markdown_row(aligns)]
    lines += [markdown_row([escaped(cell) for cell in row]) for row in body]
    return "\n".join(lines)
