"""The picture of a study: one dot per run and system, mean and interval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import AutoLocator

from analysis import style
from analysis.study_runs import Study, StudyRow
from analysis.study_stats import spread

_MARKERS = "osD^vP*X"
_ROW, _WIDTH, _TOP, _BOTTOM = 0.34, 4.6, 0.45, 0.6


def study_dots(study: Study, path: str | os.PathLike[str]) -> None:
    """Draw each run's ratio over the base: systems and settings as rows, task splits as markers,
    the mean and its 95% t interval as a bar below the dots."""
    found: dict[tuple[str, str], list[StudyRow]] = {}
    for row in study.rows:
        if row.ratio is not None:
            found.setdefault((row.group, row.label), []).append(row)
    rows = [row for mine in found.values() for row in mine]
    names = _names([mine[0] for mine in found.values()])
    splits = list(dict.fromkeys(row.split for row in rows))
    left = style.text_width(names, 8) + 0.1
    height = max(len(names), 1) * _ROW
    figure = Figure(figsize=(left + _WIDTH + 1.5, height + _TOP + _BOTTOM))
    axes = style.plain_axes(figure, left, _BOTTOM, _WIDTH, height)
    palette = style.colours(list(dict.fromkeys(row.system for row in rows)))
    markers = dict(zip(splits, cycle(_MARKERS), strict=False))
    for at, mine in enumerate(found.values()):
        _draw_system(axes, at, mine, palette[mine[0].system], markers)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    style.label_rows(axes, names, 8)
    axes.xaxis.set_major_locator(AutoLocator())
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", color=style.LIGHT, linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    label = f"gain of the mean unseen score over {study.base}, % (bar: mean, 95% t interval)"
    axes.set_xlabel(label, fontsize=7.5, parse_math=False)
    if len(splits) > 1:
        _draw_legend(axes, markers)
    num_runs = len({run for row in study.rows for run in row.runs})
    style.title(figure, f"Unseen tasks: {num_runs} run{'s' if num_runs > 1 else ''}")
    style.save(figure, path)


def _names(rows: Sequence[StudyRow]) -> list[str]:
    """Labels, with words such as ``lstm`` standing for themselves where that stays clear."""
    full = [f"{row.label} ({row.group})" if row.group else row.label for row in rows]
    short = []
    for row in rows:
        words = [v if v[:1].isalpha() else f"{k}={v}" for k, v in row.setting]
        name = f"{row.name}: {', '.join(words)}" if words else row.name
        short.append(f"{name} ({row.group})" if row.group else name)
    return short if len({*map(style.shown, short)}) == len(full) else full


def _draw_system(
    axes: Axes, at: int, rows: list[StudyRow], colour: str, markers: dict[str, str]
) -> None:
    ratios = [row.ratio for row in rows if row.ratio is not None]
    # Spread over the upper half of the row, so that equal values stay apart.
    heights = at - 0.12 + np.linspace(-0.1, 0.1, len(rows)) if len(rows) > 1 else [at - 0.12]
    for row, x, y in zip(rows, ratios, heights, strict=True):
        axes.plot(x, y, markers[row.split], color=colour, markersize=4.5, alpha=0.85)
    mean = spread(ratios)
    if mean.t_interval:
        axes.plot(mean.t_interval, (at + 0.2,) * 2, color=colour, linewidth=2.2)
    axes.plot(mean.mean, at + 0.2, "|", color="black", markersize=9, markeredgewidth=1.6)
    number = f"{mean.mean:+.1f}%"
    axes.annotate(
        number,
        (1.01, at),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        annotation_clip=False,
    )


def _draw_legend(axes: Axes, markers: dict[str, str]) -> None:
    handles = [
        Line2D([], [], marker=marker, color=style.GREY, linestyle="", markersize=4.5)
        for marker in markers.values()
    ]
    legend = axes.legend(
        handles,
        [style.shown(split) for split in markers],
        title="task split",
        fontsize=7.5,
        title_fontsize=7.5,
        loc="upper left",
        bbox_to_anchor=(1.1, 1.0),
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
