"""Step time over devices, a panel per backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from analysis import style
from analysis.scaling.cluster import Cluster
from analysis.scaling.cost import LAYOUTS

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 2.5, 1.9, 0.6, 0.75, 0.65
_COLUMNS = 3
_EXPERTS = 8


def draw(points: Sequence[dict[str, Any]], cluster: Cluster, path: Path) -> None:
    """For one m (8 if it is there): each layout at its best number of owners that fits."""
    names = list(dict.fromkeys(point["backbone"] for point in points))
    experts = {point["num_experts"] for point in points}
    m = _EXPERTS if _EXPERTS in experts else max(experts)
    columns, rows = min(_COLUMNS, len(names)), -(-len(names) // _COLUMNS)
    width = _LEFT + columns * (_WIDTH + _GAP) + 0.6
    height = _TOP + rows * (_HEIGHT + _GAP) - 0.2
    figure = Figure(figsize=(width, height))
    for number, name in enumerate(names):
        left = _LEFT + number % columns * (_WIDTH + _GAP)
        bottom = height - _TOP - (number // columns + 1) * (_HEIGHT + _GAP) + _GAP
        axes = style.plain_axes(figure, left, bottom, _WIDTH, _HEIGHT)
        mine = [p for p in points if p["backbone"] == name and p["num_experts"] == m]
        _panel(axes, mine)
        axes.set_title(name, fontsize=8, loc="left")
        if number == 0:
            axes.legend(fontsize=7, frameon=False, loc="upper left")
    below = f"seconds per step over devices ({cluster.name}), {m} experts; only what fits in memory"
    style.title(figure, "Which layout is fastest", below)
    style.save(figure, path)


def _panel(axes: Axes, points: Sequence[dict[str, Any]]) -> None:
    worlds = sorted({point["world"] for point in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(worlds[0] / 1.3, worlds[-1] * 1.3)
    for layout, colour in style.colours(LAYOUTS).items():
        best: dict[int, float] = {}
        for point in points:
            if point["layout"] == layout and point["fits"]:
                world = point["world"]
                best[world] = min(point["step_s"], best.get(world, point["step_s"]))
        axes.plot(list(best), list(best.values()), "o-", color=colour, markersize=2.5, label=layout)
    if not any(point["fits"] for point in points):
        axes.text(0.5, 0.5, "fits nowhere", ha="center", fontsize=8, transform=axes.transAxes)
    low, high = axes.get_ylim()
    if high < 2 * low:
        axes.set_ylim(low / 2, high * 2)
    axes.xaxis.set_major_locator(FixedLocator(worlds[::3]))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=7)
