"""Pictures of tables of numbers: coloured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.report.scene import Dot, Line, Rect, Scene, Text, number, p_text, plain, widest


def signed_grid(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], tuple[float, str, bool]],
    scale: float = 1.0,
) -> Scene:
    """Values from ``-scale`` (blue) to ``scale`` (red); marked ones carry a dot.

    Args:
        values: (row, column) -> value, hover text, whether it is marked.
    """
    left, top = widest(list(rows)) + 20, widest(list(columns), 10) * 0.72 + 24
    cell = 20.0
    scene = Scene(title, max(left + len(columns) * cell + 60, 380), top + len(rows) * cell + 56)
    for place, column in enumerate(columns):
        scene.add(Text(left + (place + 0.5) * cell, top - 8, column, 10, rotate=-45))
    for place, row in enumerate(rows):
        y = top + place * cell
        scene.add(Text(left - 8, y + cell / 2, row, 11, "end"))
        for at, column in enumerate(columns):
            if (row, column) not in values:
                continue
            value, tip, marked = values[row, column]
            colour = "positive" if value > 0 else "negative"
            strength = min(abs(value) / scale, 1.0)
            x = left + at * cell
            scene.add(Rect(x, y, cell - 1, cell - 1, colour, round(max(strength, 0.04), 2), tip))
            if marked:
                scene.add(Dot(x + cell / 2 - 0.5, y + cell / 2 - 0.5, "ink", tip, 2.5))
    y = top + len(rows) * cell + 22
    for place in range(11):
        value = (place - 5) / 5
        colour = "positive" if value > 0 else "negative"
        scene.add(Rect(left + place * 14, y, 13, 11, colour, round(max(abs(value), 0.04), 2)))
    scene.add(Text(left - 6, y + 6, number(-scale), 10, "end", "grey"))
    scene.add(Text(left + 160, y + 6, number(scale), 10, fill="grey"))
    return scene


def density(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str, title: str) -> Scene:
    """How many pairs of tasks have these two distances: a grid of 20 x 20."""
    scene = Scene(title, 420, 350)
    left, top, size = 56.0, 12.0, 280.0
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=20)
    cell, most = size / 20, max(counts.max(), 1)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            tip = f"{int(count)} pairs\n{x_name} {x_edges[i]:.2f} to {x_edges[i + 1]:.2f}"
            tip += f"\n{y_name} {y_edges[j]:.2f} to {y_edges[j + 1]:.2f}"
            share = round(float(max((count / most) ** 0.5, 0.08)), 2)
            scene.add(
                Rect(
                    left + i * cell,
                    top + size - (j + 1) * cell,
                    cell - 0.5,
                    cell - 0.5,
                    "heat",
                    share,
                    tip,
                )
            )
    scene.add(Line(((left, top), (left, top + size), (left + size, top + size)), "line"))
    for name, edges, across in ((x_name, x_edges, True), (y_name, y_edges, False)):
        for share, anchor in ((0.0, "start"), (1.0, "end")):
            value = f"{edges[0] + share * (edges[-1] - edges[0]):.2f}"
            if across:
                scene.add(Text(left + share * size, top + size + 13, value, 10, anchor, "grey"))
            else:
                scene.add(Text(left - 6, top + size - share * (size - 6), value, 10, "end", "grey"))
        if across:
            scene.add(Text(left + size / 2, top + size + 32, name, 11, "middle", "grey"))
        else:
            scene.add(Text(16, top + size / 2, name, 11, "middle", "grey", -90))
    return scene


def matched_grid(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> Scene:
    """Share of routes in common with experts matched, for every pair of route tables."""
    left, cell = widest(list(names)) + 46, 44.0
    scene = Scene(
        "Routes in common, experts matched",
        max(left + len(names) * cell + 20, 360),
        30 + len(names) * cell,
    )
    place = {name: at for at, name in enumerate(names)}
    for name, at in place.items():
        scene.add(Text(left - 8, 24 + (at + 0.5) * cell, f"{at + 1}  {plain(name)}", 11, "end"))
        scene.add(Text(left + (at + 0.5) * cell, 12, str(at + 1), 11, "middle"))
    for pair in pairs:
        value = pair["matched"]["value"]
        chance, p = number(pair["matched"]["chance"]), p_text(pair["matched"]["p_value"])
        tip = f"{pair['a']}\n{pair['b']}\nin common {number(value)}, chance {chance}\n{p}"
        for a, b in ((pair["a"], pair["b"]), (pair["b"], pair["a"])):
            x, y = left + place[a] * cell, 24 + place[b] * cell
            if value is not None:
                scene.add(Rect(x, y, cell - 2, cell - 2, "heat", round(0.1 + 0.6 * value, 2), tip))
            scene.add(Text(x + cell / 2 - 1, y + cell / 2, number(value), 11, "middle"))
    return scene
