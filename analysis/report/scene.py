"""Pictures as lists of marks, drawn as SVG and as PNG alike.

Colours are names (``NAMES``), so that one picture suits light and dark pages and paper.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

LIGHT = {
    "ink": "#1b1b1f", "grey": "#5a5a63", "line": "#c9c9d1", "paper": "#ffffff",
    "heat": "#08519c", "positive": "#b2182b", "negative": "#2166ac",
    "c0": "#332288", "c1": "#b9a22e", "c2": "#117733", "c3": "#cc6677", "c4": "#4fa3cf",
    "c5": "#882255", "c6": "#44aa99", "c7": "#999933", "c8": "#aa4499",
}  # fmt: skip
DARK = {
    "ink": "#ececf1", "grey": "#b4b4be", "line": "#4a4a55", "paper": "#17171c",
    "heat": "#7ab8f5", "positive": "#f58a7a", "negative": "#6fb1f0",
    "c0": "#9d8df2", "c1": "#ddcc77", "c2": "#4fc07a", "c3": "#e58b99", "c4": "#88ccee",
    "c5": "#d977a8", "c6": "#66d1bf", "c7": "#c3c35a", "c8": "#d983d0",
}  # fmt: skip
NUM_CATEGORY_COLOURS = 9
_LONGEST = 44


@dataclass(frozen=True)
class Rect:
    """``row``: which row of a table the mark belongs to, for reordering; ``cell``: its number."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    opacity: float = 1.0
    tip: str = ""
    row: int | None = None
    cell: bool = False


@dataclass(frozen=True)
class Line:
    """Straight lines through ``points``."""

    points: tuple[tuple[float, float], ...]
    stroke: str = "line"
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """``shape``: 0 circle, 1 square, 2 diamond."""

    x: float
    y: float
    fill: str
    tip: str = ""
    radius: float = 4.0
    shape: int = 0
    hollow: bool = False


@dataclass(frozen=True)
class Text:
    """``y`` is the middle of the line; ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    size: float = 11.0
    anchor: str = "start"
    fill: str = "ink"
    rotate: int = 0
    bold: bool = False
    row: int | None = None
    tip: str = ""


Mark = Rect | Line | Dot | Text


@dataclass
class Scene:
    """Sizes in CSS pixels."""

    title: str
    width: float
    height: float
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks += marks


def plain(text: str) -> str:
    """Text whose control and direction signs are shown as ``\\u202e``, the rest as it is."""
    return "".join(
        f"\\u{ord(sign):04x}" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Co") else sign
        for sign in text
    )


def short(text: str) -> str:
    """A name short enough for a label."""
    text = plain(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def text_width(text: str, size: float = 11.0) -> float:
    """Pixels, rather too many than too few."""
    units = (0.6 if ord(sign) < 0x2E80 else 1.05 for sign in short(text))
    return size * sum(units)


def widest(texts: list[str], size: float = 11.0) -> float:
    return max((text_width(text, size) for text in texts), default=0.0)


def category_colours(names: list[str]) -> dict[str, str]:
    """Name -> colour; with more categories than colours these repeat."""
    known = sorted(set(names))
    return {name: f"c{number % NUM_CATEGORY_COLOURS}" for number, name in enumerate(known)}


def legend(scene: Scene, colours: dict[str, str], x: float, y: float, width: float) -> float:
    """Colours with their names in lines at most ``width`` wide; returns where it ends below."""
    at = x
    for name, colour in colours.items():
        needed = 18 + text_width(name) + 14
        if at > x and at + needed > x + width:
            at, y = x, y + 18
        scene.add(Rect(at, y - 5, 11, 11, colour), Text(at + 16, y, short(name)))
        at += needed
    return y + 14


def legend_height(names: list[str], width: float) -> float:
    """Height that ``legend`` takes."""
    return legend(Scene("", 0, 0), dict.fromkeys(sorted(set(names)), "ink"), 0, 0, width)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    span = max(high - low, 1e-9)
    power = 10 ** len(str(int(1 / span))) if span < 1 else 1
    raw = span / count
    step = next(
        size / scale
        for scale in (
            1000 * power,
            100 * power,
            10 * power,
            power,
            0.1,
            0.01,
            0.001,
            1e-4,
            1e-5,
            1e-6,
        )
        for size in (1, 2, 5)
        if size / scale >= raw * 0.999
    )
    first = int(-(-low // step))
    return [
        round(step * i, 10)
        for i in range(first, int(high / step + 1e-6) + 1)
        if step * i >= low - 1e-9
    ]


def number(value: float | None, digits: int = 2) -> str:
    """``-0.08`` with a proper minus sign; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def p_text(p: float | None) -> str:
    return "" if p is None else "p < .001" if p < 0.001 else f"p = {p:.3f}"
