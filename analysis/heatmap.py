"""The heat map of a run's routes."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from analysis import style
from analysis.routes import Layer, Snapshot, snapshot

_LINE = "#909090"
_ROW, _NAME_SIZE = 0.125, 6.5
_GAP, _TOP, _BOTTOM, _STACK_TITLE = 0.14, 0.95, 0.6, 0.5


def route_heatmap(
    routes: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    step: int | None = None,
) -> None:
    """Draw routes as tasks x (layer x expert), encoder and decoder side by side.

    Tasks are ordered by category, subcategory and, within these, similarity of their routes.

    Args:
        routes: a routes table (``Run.routes["moe"]``).
        path: the file's ending gives the format (``.png``, ``.svg``, ``.pdf``).
        title: usually the run's name.
        step: the snapshot; the last one by default.
    """
    shot = snapshot(routes, step)
    order = task_order(shot)
    tasks = shot.tasks.iloc[order]
    names, categories, subcategories = (
        tasks[column].tolist() for column in ("task", "category", "subcategory")
    )
    stacks = style.blocks([layer.stack for layer in shot.layers])
    num_columns = shot.weights.shape[1]
    narrowest = min(sum(layer.num_experts for layer in shot.layers[a:b]) for _, a, b in stacks)
    column = max(float(np.clip(5.5 / num_columns, 0.13, 0.24)), _STACK_TITLE / narrowest)
    height = len(names) * _ROW
    left = style.text_width(names, _NAME_SIZE)
    sub_width = style.text_width(subcategories, _NAME_SIZE) if any(subcategories) else 0.0
    maps = num_columns * column + (len(stacks) - 1) * _GAP
    side = left + maps + 0.1 + sub_width
    width = max(side + style.STRIP + style.text_width(categories, 8), 5.0)
    figure = Figure(figsize=(width + 0.1, height + _TOP + _BOTTOM))
    at = left
    for stack, start, stop in stacks:
        layers = shot.layers[start:stop]
        columns = slice(layers[0].columns.start, layers[-1].columns.stop)
        span = (columns.stop - columns.start) * column
        axes = style.plain_axes(figure, at, _BOTTOM, span, height)
        _draw_stack(axes, shot.weights[order, columns], stack, layers, categories)
        if at == left:
            style.label_rows(axes, names, _NAME_SIZE)
        at += span + _GAP
    _draw_sides(figure, side, sub_width, height, categories, subcategories)
    _draw_weight_scale(figure, left)
    head = f"{title}: routes of" if title else "Routes of"
    style.title(figure, f"{head} {len(names)} tasks at step {shot.step}")
    style.save(figure, path)


def task_order(shot: Snapshot) -> np.ndarray:
    """Rows of ``shot`` by category, subcategory and similarity: ``[tasks]``."""
    groups: dict[tuple[str, str], list[int]] = {}
    labels = zip(shot.tasks["category"], shot.tasks["subcategory"], strict=True)
    for row, label in enumerate(labels):
        groups.setdefault(label, []).append(row)
    order: list[int] = []
    for _, rows in sorted(groups.items()):
        if len(rows) > 2:
            among = squareform(shot.distances[np.ix_(rows, rows)], checks=False)
            leaves = leaves_list(linkage(among, "average", optimal_ordering=True))
            rows = [rows[leaf] for leaf in leaves]
        order += rows
    return np.array(order)


def _draw_stack(
    axes: Axes, weights: np.ndarray, stack: str, layers: tuple[Layer, ...], categories: list[str]
) -> None:
    num_tasks, num_columns = weights.shape
    axes.imshow(weights, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    for _, start, _ in style.blocks(categories)[1:]:
        axes.axhline(start - 0.5, color=style.GREY, linewidth=0.6)
    axes.axvline(-0.5, color=_LINE, linewidth=0.6, clip_on=False)
    first = layers[0].columns.start
    experts: list[str] = []
    for layer in layers:
        size = layer.num_experts
        start = layer.columns.start - first
        axes.axvline(start + size - 0.5, color=_LINE, linewidth=0.6, clip_on=False)
        middle = start + (size - 1) / 2
        _above(axes, middle, 15, f"L{layer.layer}", 7)
        experts += [str(expert) for expert in range(size)]
    axes.set_xticks(range(num_columns))
    axes.set_xticklabels(experts, fontsize=5.5, color=style.GREY)
    axes.tick_params(top=False, labeltop=True, labelbottom=False)
    axes.set_ylim(num_tasks - 0.5, -0.5)
    _above(axes, (num_columns - 1) / 2, 27, stack, 9)


def _above(axes: Axes, x: float, points: float, text: str, size: float) -> None:
    axes.annotate(
        text,
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, points),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=size,
        parse_math=False,
        annotation_clip=False,
    )


def _draw_sides(
    figure: Figure,
    side: float,
    sub_width: float,
    height: float,
    categories: list[str],
    subcategories: list[str],
) -> None:
    """Names of subcategories, then the bar and names of categories, right of the maps."""
    limits = (len(categories) - 0.5, -0.5)
    if sub_width:
        axes = style.plain_axes(figure, side - sub_width, _BOTTOM, sub_width, height)
        axes.set(xlim=(0, sub_width), ylim=limits)
        pairs = [f"{c}\n{s}" for c, s in zip(categories, subcategories, strict=True)]
        for _, start, stop in style.blocks(pairs):
            axes.text(
                0,
                (start + stop - 1) / 2,
                style.shown(subcategories[start]),
                va="center",
                fontsize=_NAME_SIZE,
                color=style.GREY,
                parse_math=False,
            )
            axes.axhline(stop - 0.5, color=style.LIGHT, linewidth=0.4)
    bar = style.plain_axes(figure, side, _BOTTOM, 3.0, height)
    bar.set(xlim=(0, 3.0), ylim=limits)
    style.category_bar(bar, categories, 8)


def _draw_weight_scale(figure: Figure, left: float) -> None:
    axes = style.plain_axes(figure, left, 0.34, 1.6, 0.11)
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap="Blues", extent=(0, 1, 0, 1))
    axes.set_xticks([0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"], fontsize=6.5)
    axes.set_xlabel("weight of the expert   (columns: L = layer, digit = expert)", fontsize=6.5)
    axes.xaxis.set_label_coords(0, -1.9)
    axes.xaxis.label.set_horizontalalignment("left")
