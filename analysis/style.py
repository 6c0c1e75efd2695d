"""What the figures share: colours, sizes in inches, text that is shown as it is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.textpath import TextToPath

from analysis.output import written_aside

# Paul Tol's "muted" scheme without its pale grey: told apart with any colour vision, also by
# lightness. With more categories colours repeat, so names always stand beside them.
COLOURS = (
    "#332288",
    "#DDCC77",
    "#117733",
    "#CC6677",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
)
GREY = "#555555"
LIGHT = "#D0D0D0"
HALO: list[AbstractPathEffect] = [
    withStroke(linewidth=2, foreground="white")
]  # text that crosses lines
DPI = 150
STRIP = 0.14  # inches, the bar of categories
_LONGEST = 60


def colours(names: Sequence[str]) -> dict[str, str]:
    """Name -> colour; neighbours in ``names`` differ."""
    return dict(zip(names, cycle(COLOURS), strict=False))


def shown(name: str) -> str:
    """A name short enough for a label."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def text_width(names: Sequence[str], size: float) -> float:
    """Inches that the longest of ``names`` takes at ``size`` points, with a margin."""
    font = FontProperties(size=size)
    measure = TextToPath().get_text_width_height_descent
    widths = (measure(shown(name), font, ismath=False)[0] for name in set(names))
    # Hinting makes small letters up to a tenth wider than their outlines.
    return max(widths, default=0.0) / 72 * 1.1 + 0.15


def plain_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches, without frame and ticks."""
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height)
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def label_rows(axes: Axes, names: Sequence[str], size: float) -> None:
    """Names of rows 0, 1, ... on the left; signs such as ``$`` are not read as formulas."""
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels([shown(name) for name in names], fontsize=size, parse_math=False)


def blocks(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of equal neighbours: (name, start, stop)."""
    found: list[tuple[str, int, int]] = []
    for row, name in enumerate(names):
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], row + 1)
        else:
            found.append((name, row, row + 1))
    return found


def category_bar(axes: Axes, rows: Sequence[str], size: float) -> None:
    """A strip coloured by category, with the categories' names beside it.

    ``axes`` lie in inches from 0 on the left, in rows from the top.
    """
    found = blocks(rows)
    palette = colours([name for name, _, _ in found])
    for name, start, stop in found:
        axes.barh(
            start - 0.5 + 0.04,
            STRIP,
            height=stop - start - 0.08,
            align="edge",
            color=palette[name],
        )
        axes.text(
            STRIP + 0.06,
            (start + stop - 1) / 2,
            shown(name),
            va="center",
            fontsize=size,
            parse_math=False,
        )


def title(figure: Figure, text: str, below: str = "") -> None:
    """A bold title at the top left, with plain lines below it."""
    height = figure.get_size_inches()[1]
    figure.text(
        0.08 / figure.get_size_inches()[0],
        1 - 0.08 / height,
        text,
        va="top",
        fontsize=10,
        fontweight="bold",
        parse_math=False,
    )
    if below:
        figure.text(
            0.08 / figure.get_size_inches()[0],
            1 - 0.3 / height,
            below,
            va="top",
            fontsize=8,
            parse_math=False,
        )


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the file's ending gives the format."""
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=DPI, facecolor="white")
