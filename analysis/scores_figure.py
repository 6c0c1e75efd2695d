"""The picture of systems that learned the same tasks: scores per task, and their averages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import style

_ROW, _COLUMN, _AVERAGES, _NUMBER, _SIZE = 0.3, 0.46, 2.0, 0.5, 7.5  # inches; points
_TOP, _BOTTOM, _GAP = 0.55, 0.4, 0.3  # inches
_LIGHTEST_DARK = 0.6  # from this score on a cell is dark and its number white

Place = tuple[float, float, float, float]


def scores_figure(
    scores: Mapping[str, Mapping[str, float]],
    averages: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    title: str,
    note: str = "",
) -> None:
    """Draw systems x tasks, each task's best in bold, and beside it the systems' averages.

    Args:
        scores: system -> task -> score.
        averages: system -> average of each seed, drawn as dots with their mean as a line.
    """
    systems = list(averages)
    tasks = list(dict.fromkeys(task for system in systems for task in scores[system]))
    left, heads = style.text_width(systems, _SIZE), style.text_width(tasks, _SIZE)
    width, height = _COLUMN * len(tasks), _ROW * len(systems)
    figure = Figure(
        figsize=(left + width + _GAP + _AVERAGES + _NUMBER, _TOP + heads + height + _BOTTOM)
    )
    _draw_scores(figure, (left, _BOTTOM, width, height), scores, systems, tasks)
    _draw_averages(figure, (left + width + _GAP, _BOTTOM, _AVERAGES, height), averages)
    style.title(figure, title, note)
    style.save(figure, path)


def _draw_scores(
    figure: Figure,
    place: Place,
    scores: Mapping[str, Mapping[str, float]],
    systems: Sequence[str],
    tasks: Sequence[str],
) -> None:
    axes = style.plain_axes(figure, *place)
    table = np.array([[scores[s].get(t, np.nan) for t in tasks] for s in systems])
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for (row, column), score in np.ndenumerate(table):
        if np.isfinite(score):
            colour = "white" if score > _LIGHTEST_DARK else "black"
            best = np.nanmin(table[:, column]) < score == np.nanmax(table[:, column])
            axes.text(
                column, row, f"{score:.2f}", ha="center", va="center", fontsize=6.5, color=colour,
                fontweight="bold" if best else "normal",
            )  # fmt: skip
    style.label_rows(axes, systems, _SIZE)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(tasks)))
    shown = [style.shown(task) for task in tasks]
    axes.set_xticklabels(shown, fontsize=_SIZE, rotation=90, parse_math=False)


def _draw_averages(figure: Figure, place: Place, averages: Mapping[str, Sequence[float]]) -> None:
    axes = style.plain_axes(figure, *place)
    for row, values in enumerate(averages.values()):
        _draw_system(axes, row, values)
    axes.set_ylim(len(averages) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=6.5)
    axes.grid(axis="x", color=style.LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)
    several = any(len(values) > 1 for values in averages.values())
    axes.set_xlabel("average (dots: seeds)" if several else "average", fontsize=_SIZE)


def _draw_system(axes: Axes, row: int, values: Sequence[float]) -> None:
    mean = float(np.mean(values))
    if len(values) > 1:
        axes.plot(values, [row] * len(values), "o", color=style.COLOURS[0], ms=4, alpha=0.6)
    axes.plot(mean, row, "|", color="black", markersize=11, markeredgewidth=1.6)
    axes.annotate(
        f"{mean:.3f}",
        (1.04, row),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=_SIZE,
        annotation_clip=False,
    )
