"""The picture of a sweep: every task's scores, and what each system gains over the base."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.sweep_stats import Comparison, TaskRow

_ROW, _COLUMN, _SIZE = 0.19, 0.44, 7.5  # inches, inches, points
_TOP, _BOTTOM, _GAIN, _GAP = 0.55, 0.15, 1.3, 0.3  # inches
_MEAN = "mean over tasks"
_LIGHTEST_DARK = 0.6  # from this score on a cell is dark and its number white

Columns = Mapping[str, Mapping[str, float | None]]  # name -> task -> score


def sweep_figure(
    rows: Sequence[TaskRow],
    comparisons: Sequence[Comparison],
    by_run: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
) -> None:
    """Draw a table of tasks x systems, beside chance and majority, and the gains below it.

    Args:
        by_run: system -> its gain over the base in each run.
    """
    ordered = sorted(rows, key=lambda row: (row.category, row.task))
    category = {row.task: row.category for row in ordered}
    columns = _columns(rows, ordered)
    names = [*category, _MEAN]
    heads = style.text_width(list(columns), _SIZE)
    left = style.text_width(names, _SIZE)
    right = style.STRIP + style.text_width(list(category.values()), _SIZE) + 0.1
    width, height = _COLUMN * len(columns), _ROW * len(names)
    below = _GAIN + _GAP if comparisons else 0.0
    figure = Figure(
        figsize=(max(left + width + right, 5.5), _TOP + heads + height + below + _BOTTOM)
    )
    bottom = _BOTTOM + below
    _draw_scores(figure, (left, bottom, width, height), columns, names)
    strip = style.plain_axes(figure, left + width + 0.06, bottom, right, height)
    strip.set_xlim(0, right)
    strip.set_ylim(len(names) - 0.5, -0.5)
    style.category_bar(strip, list(category.values()), _SIZE)
    if comparisons:
        _draw_gains(figure, (left, _BOTTOM, width, _GAIN), list(columns), comparisons, by_run)
    note = "score of every task, mean over its wordings"
    if comparisons:
        note += f"; below, gain of the mean over {comparisons[0].base}"
    style.title(figure, "Unseen tasks without examples", note)
    style.save(figure, path)


def _columns(rows: Sequence[TaskRow], ordered: Sequence[TaskRow]) -> Columns:
    first = {row.task: row for row in ordered}
    columns: dict[str, Mapping[str, float | None]] = {
        "chance": {task: row.chance for task, row in first.items()},
        "majority": {task: row.majority for task, row in first.items()},
    }
    for label in dict.fromkeys(row.label for row in rows):
        columns[label] = {row.task: row.mean for row in ordered if row.label == label}
    return columns


def _draw_scores(
    figure: Figure,
    place: tuple[float, float, float, float],
    columns: Columns,
    names: Sequence[str],
) -> None:
    axes = style.plain_axes(figure, *place)
    scores = np.full((len(names), len(columns)), np.nan)  # [tasks + 1, systems]
    for number, own in enumerate(columns.values()):
        values = [own.get(task) for task in names[:-1]]
        scores[:-1, number] = [np.nan if value is None else value for value in values]
        if np.isfinite(scores[:-1, number]).all():
            scores[-1, number] = scores[:-1, number].mean()
    axes.imshow(scores, cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            colour = "white" if score > _LIGHTEST_DARK else "black"
            text, weight = f"{score:.2f}", "bold" if row == len(names) - 1 else "normal"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6.5, color=colour,
                fontweight=weight,
            )  # fmt: skip
    axes.axvline(1.5, color="white", linewidth=3)
    axes.axhline(len(names) - 1.5, color="white", linewidth=3)
    style.label_rows(axes, names, _SIZE)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)))
    shown = [style.shown(name) for name in columns]
    axes.set_xticklabels(shown, fontsize=_SIZE, rotation=90, parse_math=False)


def _draw_gains(
    figure: Figure,
    place: tuple[float, float, float, float],
    labels: Sequence[str],
    comparisons: Sequence[Comparison],
    by_run: Mapping[str, Sequence[float]],
) -> None:
    """Each system's gain with its interval, the runs' own as small rings, under its column."""
    axes = style.plain_axes(figure, *place)
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    for found in comparisons:
        column = labels.index(found.label)
        if found.ratio is None:
            continue
        if found.ratio_interval is not None:
            bounds = [100 * bound for bound in found.ratio_interval]
            axes.plot((column, column), bounds, color=style.COLOURS[0], linewidth=1.2)
        axes.plot(column, 100 * found.ratio, "o", color=style.COLOURS[0], markersize=4)
        runs = by_run.get(found.label, ())
        if len(runs) > 1:
            places = [column + 0.2] * len(runs)
            values = [100 * gain for gain in runs]
            axes.plot(places, values, "o", mfc="none", mec=style.GREY, mew=0.7, markersize=3)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(axis="y", labelsize=6.5)
    axes.grid(axis="y", color=style.LIGHT, linewidth=0.5)
    axes.set_ylabel("gain, %", fontsize=_SIZE)
