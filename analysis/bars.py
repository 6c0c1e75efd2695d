"""The gain per task."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import style
from moe_tasks.evaluation.gain import Gain
from moe_tasks.evaluation.summary import gain_lines

_WIDTH, _ROW, _TOP, _BOTTOM = 4.2, 0.16, 0.75, 0.45
_UNSCORED = "not scored"
# task, category, gain, reason where there is none
_Row = tuple[str, str, float | None, str]


def gain_bars(gain: Gain, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw each task's relative gain, coloured by category, with the average and its interval.

    Bars longer than the axis end at its edge; every bar has its number. Tasks that the average
    leaves out have no bar but their reason.
    """
    rows = _rows(gain)
    names = [name for name, _, _, _ in rows]
    categories = [category for _, category, _, _ in rows]
    left = style.text_width(names, 7)
    height = max(len(rows), 1) * _ROW
    width = left + _WIDTH + 0.2 + style.STRIP + style.text_width(categories, 8)
    figure = Figure(figsize=(max(width, 6.0), height + _TOP + _BOTTOM))
    axes = style.plain_axes(figure, left, _BOTTOM, _WIDTH, height)
    _draw(axes, rows, gain)
    style.label_rows(axes, names, 7)
    side = style.plain_axes(figure, left + _WIDTH + 0.1, _BOTTOM, 3.0, height)
    side.set(xlim=(0, 3.0), ylim=axes.get_ylim())
    style.category_bar(side, categories, 8)
    head = title or f"{gain.system} over {gain.base}, unseen tasks"
    style.title(figure, head, "\n".join(gain_lines(gain)[:2]))
    style.save(figure, path)


def _rows(gain: Gain) -> list[_Row]:
    reasons = {name: out.reason for name, out in gain.left_out.items()}
    rows: list[_Row] = [
        (name, task.category, task.gain, reasons.pop(name, ""))
        for name, task in gain.per_task.items()
    ]
    rows.sort(key=lambda row: (row[1], -(row[2] or 0.0), row[0]))
    return rows + [(name, _UNSCORED, None, reason) for name, reason in sorted(reasons.items())]


def _draw(axes: Axes, rows: list[_Row], gain: Gain) -> None:
    limit = _limit([value for _, _, value, _ in rows if value is not None], gain.interval)
    palette = style.colours(list(dict.fromkeys(category for _, category, _, _ in rows)))
    for row, (_, category, value, reason) in enumerate(rows):
        if value is None:
            note = axes.text(0.02 * limit, row, reason, va="center", fontsize=6.5, color=style.GREY)
            note.set_path_effects(style.HALO)
        else:
            axes.barh(row, np.clip(100 * value, -limit, limit), 0.72, color=palette[category])
            _write_number(axes, row, 100 * value, limit)
    axes.axvline(0, color="black", linewidth=0.8)
    if gain.interval:
        low, high = gain.interval
        axes.axvspan(100 * low, 100 * high, color=style.LIGHT, alpha=0.5, zorder=0)
    if gain.average is not None:
        axes.axvline(100 * gain.average, color="black", linestyle="--", linewidth=0.9)
    axes.set(xlim=(-1.25 * limit, 1.25 * limit), ylim=(max(len(rows), 1) - 0.5, -0.5))
    ticks = MaxNLocator(6, symmetric=True).tick_values(-limit, limit)
    axes.set_xticks([tick for tick in ticks if abs(tick) <= 1.25 * limit])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("relative gain, % (dashed: average; shaded: its 95% interval)", fontsize=7)


def _limit(gains: list[float], interval: tuple[float, float] | None) -> float:
    """Percent that the axis reaches: gains over a tiny base must not hide the others."""
    reach = 1.6 * float(np.quantile(np.abs(gains), 0.9)) if gains else 0.0
    return 100 * max(reach, 0.05, *(1.3 * abs(bound) for bound in interval or ()))


def _write_number(axes: Axes, row: int, percent: float, limit: float) -> None:
    right = percent >= 0
    number = f"{percent:+.0f}%"
    if abs(percent) > limit:
        number = f"{number} >" if right else f"< {number}"
    axes.annotate(
        number,
        (float(np.clip(percent, -limit, limit)), row),
        xytext=(3 if right else -3, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=6.5,
        path_effects=style.HALO,
        annotation_clip=False,
    )
