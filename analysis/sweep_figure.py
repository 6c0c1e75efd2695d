"""The picture of a sweep: per task each system's mean over templates and its spread."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.sweep_stats import TaskRow

_LINE, _WIDTH, _TOP, _BOTTOM = 0.13, 4.6, 0.45, 0.55


def sweep_dots(rows: Sequence[TaskRow], path: str | os.PathLike[str]) -> None:
    """Draw tasks as rows, a dot per system at its mean, a line from its lowest to its highest
    template; chance is a grey bar."""
    labels = list(dict.fromkeys(row.label for row in rows))
    ordered = sorted(rows, key=lambda row: (row.category, row.task))
    tasks = list(dict.fromkeys(row.task for row in ordered))
    band = _LINE * (len(labels) + 1)
    left = style.text_width(tasks, 7.5) + 0.1
    height = max(len(tasks), 1) * band
    legend = style.text_width([*labels, "chance"], 7.5) + 0.4
    figure = Figure(figsize=(left + _WIDTH + legend, height + _TOP + _BOTTOM))
    axes = style.plain_axes(figure, left, _BOTTOM, _WIDTH, height)
    palette = style.colours(labels)
    offsets = dict(zip(labels, _offsets(len(labels)), strict=True))
    for row in ordered:
        _draw(axes, row, tasks.index(row.task) + offsets[row.label], palette[row.label])
    for row in ordered:
        if row.chance is not None:
            y = tasks.index(row.task)
            axes.plot((row.chance,) * 2, (y - 0.4, y + 0.4), color=style.GREY, linewidth=1.0)
    axes.set_ylim(max(len(tasks), 1) - 0.5, -0.5)
    style.label_rows(axes, tasks, 7.5)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlim(min(-0.02, *(row.lowest for row in rows)), 1.02)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", color=style.LIGHT, linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlabel("score (dot: mean over templates; line: lowest to highest)", fontsize=7.5)
    _draw_legend(axes, palette)
    style.title(figure, f"Unseen tasks without examples: {len(tasks)} tasks")
    style.save(figure, path)


def _offsets(count: int) -> list[float]:
    return [0.0] if count == 1 else np.linspace(-0.32, 0.32, count).tolist()


def _draw(axes: Axes, row: TaskRow, y: float, colour: str) -> None:
    axes.plot((row.lowest, row.highest), (y, y), color=colour, linewidth=1.4, alpha=0.6)
    axes.plot(row.mean, y, "o", color=colour, markersize=3.6)


def _draw_legend(axes: Axes, palette: dict[str, str]) -> None:
    handles = [
        Line2D([], [], marker="o", color=colour, linestyle="", markersize=4)
        for colour in palette.values()
    ]
    handles.append(Line2D([], [], color=style.GREY, linewidth=1.0))
    legend = axes.legend(
        handles,
        [style.shown(label) for label in (*palette, "chance")],
        fontsize=7.5,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
