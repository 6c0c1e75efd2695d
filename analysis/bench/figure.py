"""A benchmark as a picture: ratios over the number of experts, or a row per scheme."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import style
from analysis.bench.setting import DENSE
from analysis.bench.table import Row

_ROW, _WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 0.22, 4.6, 3.4, 0.6, 0.55, 0.5
_LABELS = 1.9  # inches to the right of the axes


def draw(rows: Sequence[Row], title: str, below: str, path: Path) -> None:
    """Draw the ratios of ``rows`` with their quartiles.

    With several numbers of experts, main figures become lines over them; else every row is a dot.
    """
    shown = [row for row in rows if row.ratio is not None]
    over_experts = len({row.num_experts for row in shown if row.is_main}) > 1
    figure = _lines(shown) if over_experts else _dots(shown)
    style.title(figure, title, below)
    style.save(figure, path)


def _lines(rows: Sequence[Row]) -> Figure:
    first = rows[0]
    sizes = (first.rows, first.tasks, first.width)
    main = [r for r in rows if (r.rows, r.tasks, r.width) == sizes and r.is_main]
    figure = Figure(figsize=(_LEFT + _WIDTH + _LABELS, _TOP + _HEIGHT + _BOTTOM))
    axes = style.plain_axes(figure, _LEFT, _BOTTOM, _WIDTH, _HEIGHT)
    schemes = list(dict.fromkeys(row.scheme for row in main if row.scheme != DENSE))
    axes.axhline(1, color="black", linewidth=0.8)
    for name, colour in style.colours(schemes).items():
        line = sorted((row for row in main if row.scheme == name), key=lambda row: row.num_experts)
        x = [row.num_experts for row in line]
        middle, low, high = zip(*map(_ratios, line), strict=True)
        axes.plot(x, middle, "o-", color=colour, markersize=3.5, label=name)
        axes.vlines(x, low, high, color=colour)
    experts = sorted({row.num_experts for row in main})
    axes.set_xscale("log")
    _ticks(axes.xaxis, experts)
    axes.set_xlabel("experts per layer", fontsize=8)
    _logarithmic(axes, "y", [row.ratio or 1 for row in main])
    axes.set_ylabel("ratio to the dense model", fontsize=8)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _dots(rows: Sequence[Row]) -> Figure:
    names = [row.scheme for row in rows]
    if len({row.num_experts for row in rows}) > 1:
        names = [f"m={row.num_experts}: {name}" for row, name in zip(rows, names, strict=True)]
    left = style.text_width(names, 8) + 0.1
    height = max(len(rows), 1) * _ROW
    figure = Figure(figsize=(max(left + _WIDTH + 1.6, 6.0), height + _TOP + _BOTTOM))
    axes = style.plain_axes(figure, left, _BOTTOM, _WIDTH, height)
    axes.axvline(1, color="black", linewidth=0.8)
    for at, row in enumerate(rows):
        middle, low, high = _ratios(row)
        axes.hlines(at, low, high, color=style.COLOURS[0], linewidth=2)
        axes.plot([middle], [at], "o", color=style.COLOURS[0], markersize=4)
        text = f"{row.ratio:.2f}  ({row.absolute:.3g} {row.unit})"
        axes.annotate(
            text, (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=7.5,
            annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style.label_rows(axes, names, 8)
    _logarithmic(axes, "x", [row.ratio or 1 for row in rows])
    axes.set_xlabel("ratio (bar: quartiles over rounds)", fontsize=8)
    return figure


def _ratios(row: Row) -> tuple[float, float, float]:
    assert row.ratio is not None and row.low is not None and row.high is not None  # noqa: PT018
    return row.ratio, row.low, row.high


def _logarithmic(axes: Axes, which: Literal["x", "y"], ratios: Sequence[float]) -> None:
    """Factors are equal lengths; ticks where a reader looks for them."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    getattr(axes, f"set_{which}scale")("log")
    steps = (0.1, 0.2, 0.5, 0.8, 1, 1.25, 1.5, 2, 3, 5, 8, 12, 16, 24, 32, 64)
    low, high = min([*ratios, 1]) * 0.93, max([*ratios, 1]) * 1.07
    getattr(axes, f"set_{which}lim")(low, high)
    _ticks(axis, [step for step in steps if low <= step <= high])
    axes.tick_params(labelsize=7.5)
    axes.grid(axis=which, color=style.LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)


def _ticks(axis: Axis, places: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
