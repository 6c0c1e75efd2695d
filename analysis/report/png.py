"""Scenes as PNG, in light colours."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from analysis.report.scene import LIGHT, Dot, Line, Rect, Scene, Text, short
from analysis.style import save

_PIXELS = 96
_MARKERS = {0: "o", 1: "s", 2: "D"}
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def write_png(scene: Scene, path: Path) -> None:
    """Draw ``scene`` at its size; ``UserError`` if the file cannot be written."""
    figure = Figure(figsize=(scene.width / _PIXELS, scene.height / _PIXELS))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, scene.width), ylim=(scene.height, 0))
    rects = [mark for mark in scene.marks if isinstance(mark, Rect)]
    corners = [
        [(r.x, r.y), (r.x + r.width, r.y), (r.x + r.width, r.y + r.height), (r.x, r.y + r.height)]
        for r in rects
    ]
    fills = [to_rgba(LIGHT[r.fill], r.opacity) for r in rects]
    axes.add_collection(PolyCollection(corners, facecolors=fills, linewidths=0))
    lines = [mark for mark in scene.marks if isinstance(mark, Line)]
    styles = ["--" if line.dashed else "-" for line in lines]
    axes.add_collection(
        LineCollection(
            [line.points for line in lines],
            colors=[LIGHT[line.stroke] for line in lines],
            linewidths=[0.75 * line.width for line in lines],
            linestyles=styles,
        )
    )
    groups: dict[tuple[str, float, int, bool], list[Dot]] = defaultdict(list)
    for mark in scene.marks:
        if isinstance(mark, Dot):
            groups[mark.fill, mark.radius, mark.shape, mark.hollow].append(mark)
        elif isinstance(mark, Text):
            axes.text(
                mark.x,
                mark.y,
                short(mark.text),
                fontsize=0.72 * mark.size,
                ha=_ANCHORS[mark.anchor],
                va="center",
                rotation=-mark.rotate,
                rotation_mode="anchor",
                color=LIGHT[mark.fill],
                fontweight="bold" if mark.bold else "normal",
                parse_math=False,
            )
    for (fill, radius, shape, hollow), dots in groups.items():
        axes.plot(
            [dot.x for dot in dots],
            [dot.y for dot in dots],
            _MARKERS[shape],
            color=LIGHT[fill],
            markersize=1.5 * radius,
            markerfacecolor=LIGHT["paper"] if hollow else LIGHT[fill],
        )
    save(figure, path)
