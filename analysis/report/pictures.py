"""Pictures of routes: the heat map, the dendrogram, the map."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from analysis.heatmap import task_order
from analysis.report.scene import (
    Dot,
    Line,
    Rect,
    Scene,
    Text,
    category_colours,
    legend,
    legend_height,
    plain,
    widest,
)
from analysis.routes import Snapshot

ROW, COLUMN, GAP = 13.0, 15.0, 6.0
_TOP = 58.0


def tree_of(distances: np.ndarray) -> np.ndarray:
    """Average linkage ``[tasks - 1, 4]``, like neighbours beside each other."""
    pairs = squareform(distances, checks=False)
    return optimal_leaf_ordering(linkage(pairs, "average"), pairs)


def leaves(tree: np.ndarray) -> list[int]:
    """Rows from top to bottom."""
    num, stack, order = len(tree) + 1, [2 * len(tree)], []
    while stack:
        node = stack.pop()
        if node < num:
            order.append(node)
        else:
            stack += [int(tree[node - num, 1]), int(tree[node - num, 0])]
    return order


def route_map(shot: Snapshot) -> tuple[Scene, list[int]]:
    """Tasks x (layer x expert), by category; and the rows' places when ordered by clustering."""
    order = task_order(shot).tolist()
    tasks = shot.tasks.iloc[order]
    names, categories = tasks["task"].tolist(), tasks["category"].tolist()
    colours = category_colours(categories)
    left = widest(names) + 26
    starts, x, stack = [], left, shot.layers[0].stack
    for at in shot.layers:
        x += 0 if not starts else GAP if at.stack == stack else 4 * GAP
        stack = at.stack
        starts.append(x)
        x += at.num_experts * COLUMN
    width = max(x + 12, 420.0)
    key = legend_height(categories, width - 24)
    top = _TOP + key + 10
    scene = Scene("Routes: weight of each expert per task", width, top + len(names) * ROW + 14)
    legend(scene, colours, 12, 14, width - 24)
    for place, (name, category) in enumerate(zip(names, categories, strict=True)):
        y = top + place * ROW
        tip = f"{name}\n{category}"
        scene.add(Text(left - 22, y + ROW / 2, name, 10.5, "end", row=place, tip=tip))
        scene.add(Rect(left - 16, y, 10, ROW - 1, colours[category], tip=tip, row=place))
    _cells(scene, shot, order, starts, top)
    _heads(scene, shot, starts, top)
    if len(order) < 3:
        return scene, list(range(len(order)))
    rank = {row: place for place, row in enumerate(leaves(tree_of(shot.distances)))}
    return scene, [rank[row] for row in order]


def _cells(scene: Scene, shot: Snapshot, order: list[int], starts: list[float], top: float) -> None:
    for place, row in enumerate(order):
        for at, x in zip(shot.layers, starts, strict=True):
            for expert, weight in enumerate(shot.weights[row, at.columns].tolist()):
                scene.add(
                    Rect(
                        x + expert * COLUMN,
                        top + place * ROW,
                        COLUMN - 1,
                        ROW - 1,
                        "heat",
                        round(max(weight, 0.03), 2),
                        f"{shot.tasks['task'].iloc[row]}\n{at.stack} layer {at.layer} "
                        f"expert {expert}: {weight:.2f}",
                        place,
                        cell=True,
                    )
                )


def _heads(scene: Scene, shot: Snapshot, starts: list[float], top: float) -> None:
    last = ""
    for at, x in zip(shot.layers, starts, strict=True):
        middle = x + at.num_experts * COLUMN / 2
        if at.stack != last:
            scene.add(Text(x, top - 46, at.stack, 12, bold=True))
            last = at.stack
        scene.add(Text(middle, top - 26, f"L{at.layer}", 11, "middle"))
        for expert in range(at.num_experts):
            scene.add(
                Text(x + (expert + 0.5) * COLUMN - 0.5, top - 9, str(expert), 9.5, "middle", "grey")
            )


def dendrogram(distances: np.ndarray, names: list[str], categories: list[str], of: str) -> Scene:
    """Tasks joined by average linkage; branches within one category have its colour."""
    tree = tree_of(distances)
    num, order = len(names), leaves(tree)
    colours = category_colours(categories)
    wide, left = 420.0, 12.0
    side = left + wide + 8
    width = side + 16 + widest(names) + 12
    top = 24 + legend_height(categories, width - 24)
    scene = Scene(f"Dendrogram of tasks by {of}", width, top + num * ROW + 34)
    legend(scene, colours, 12, 14, width - 24)
    reach = float(tree[-1, 2]) or 1.0
    x_of = [left + wide] * num
    y_of = [0.0] * num
    for place, row in enumerate(order):
        y_of[row] = top + (place + 0.5) * ROW
        scene.add(
            Rect(side, y_of[row] - 5, 10, ROW - 2, colours[categories[row]], tip=plain(names[row]))
        )
        scene.add(Text(side + 15, y_of[row], names[row], 10.5))
    shared: list[str | None] = list(categories)
    for a, b, distance, _ in tree.tolist():
        a, b = int(a), int(b)
        x = left + wide * (1 - distance / reach)
        shared.append(shared[a] if shared[a] == shared[b] else None)
        colour = colours[shared[-1]] if shared[-1] is not None else "grey"
        points = ((x_of[a], y_of[a]), (x, y_of[a]), (x, y_of[b]), (x_of[b], y_of[b]))
        scene.add(Line(points, colour, 1.4))
        x_of.append(x)
        y_of.append((y_of[a] + y_of[b]) / 2)
    bottom = top + num * ROW + 16
    scene.add(Text(left, bottom, f"{reach:.2f}", 10, fill="grey"))
    scene.add(Text(left + wide, bottom, "0", 10, "end", "grey"))
    scene.add(Text(left + wide / 2, bottom, "distance at which they join", 10, "middle", "grey"))
    return scene


def scatter_map(
    points: np.ndarray, axes: tuple[str, str], names: list[str], categories: list[str], title: str
) -> Scene:
    """Tasks at ``points [tasks, 2]``, coloured by category; equal ones share a dot."""
    colours = category_colours(categories)
    size, left = 440.0, 34.0
    width = size + left + 26
    top = 20 + legend_height(categories, width - 24)
    scene = Scene(title, width, top + size + 40)
    legend(scene, colours, 12, 14, width - 24)
    scene.add(
        Line(((left, top), (left, top + size), (left + size, top + size)), "line"),
        Text(left + size / 2, top + size + 18, axes[0], 11, "middle", "grey"),
        Text(14, top + size / 2, axes[1], 11, "middle", "grey", -90),
    )
    low, reach = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    shape = {name: number // 9 % 3 for number, name in enumerate(sorted(set(categories)))}
    together: dict[tuple[float, float], list[str]] = {}
    places = ((points - low) / reach).round(3).tolist()
    for (across, along), name in zip(places, names, strict=True):
        together.setdefault((across, along), []).append(plain(name))
    for (across, along), category in zip(places, categories, strict=True):
        scene.add(
            Dot(
                left + 12 + across * (size - 24),
                top + size - 12 - along * (size - 24),
                colours[category],
                "\n".join(together[across, along][:12]),
                4.5,
                shape[category],
            )
        )
    return scene
