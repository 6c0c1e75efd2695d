"""Scenes as SVG, inside a page or as a file of its own."""

from __future__ import annotations

from html import escape

from analysis.report.scene import DARK, LIGHT, Dot, Line, Mark, Rect, Scene, Text, plain, short

_FONT = "font-family:system-ui,'DejaVu Sans',sans-serif"


def colour_css() -> str:
    """Rules for all colours: variables, and classes ``f-NAME`` (fill) and ``s-NAME`` (stroke)."""
    variables = {
        "": ";".join(f"--{name}:{value}" for name, value in LIGHT.items()),
        "dark": ";".join(f"--{name}:{value}" for name, value in DARK.items()),
    }
    classes = "".join(
        f".f-{name}{{fill:var(--{name})}}.s-{name}{{stroke:var(--{name})}}" for name in LIGHT
    )
    return (
        f":root{{{variables['']};color-scheme:light dark}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables['dark']}}}}}{classes}"
    )


def inside_page(scene: Scene, identity: str) -> str:
    """An ``<svg>`` for a page that has ``colour_css``; hover texts are in ``data-tip``."""
    return (
        f'<svg id="{identity}" width="{scene.width:.0f}" height="{scene.height:.0f}" '
        f'viewBox="0 0 {scene.width:.0f} {scene.height:.0f}" role="img" '
        f'aria-label="{_escaped(scene.title)}">{_marks(scene, "data-tip")}</svg>'
    )


def own_file(scene: Scene) -> str:
    """A whole SVG file; hover texts are titles."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="{scene.width:.0f}" height="{scene.height:.0f}" '
        f'viewBox="0 0 {scene.width:.0f} {scene.height:.0f}">'
        f"<title>{_escaped(scene.title)}</title><style>{colour_css()}</style>"
        f'<rect width="100%" height="100%" class="f-paper"/>{_marks(scene, "")}</svg>\n'
    )


def _marks(scene: Scene, tips: str) -> str:
    return f'<g style="{_FONT}">{"".join(_mark(mark, tips) for mark in scene.marks)}</g>'


def _mark(mark: Mark, tips: str) -> str:
    match mark:
        case Rect():
            shape = f'x="{_n(mark.x)}" y="{_n(mark.y)}" width="{_n(mark.width)}" '
            shape += f'height="{_n(mark.height)}" class="f-{mark.fill}'
            shape += ' cell"' if mark.cell else '"'
            if mark.opacity != 1:
                shape += f' fill-opacity="{mark.opacity:.2f}"'
            return _element("rect", shape, mark.row, mark.tip, tips)
        case Line():
            points = " ".join(f"{_n(x)},{_n(y)}" for x, y in mark.points)
            dash = ' stroke-dasharray="4 3"' if mark.dashed else ""
            return (
                f'<polyline points="{points}" class="s-{mark.stroke}" fill="none" '
                f'stroke-width="{_n(mark.width)}"{dash}/>'
            )
        case Dot():
            return _dot(mark, tips)
        case Text():
            return _text(mark, tips)


def _dot(mark: Dot, tips: str) -> str:
    paint = f'class="f-paper s-{mark.fill}" stroke-width="1.5"' if mark.hollow else ""
    paint = paint or f'class="f-{mark.fill}"'
    r = mark.radius
    if mark.shape == 0:
        return _element(
            "circle",
            f'cx="{_n(mark.x)}" cy="{_n(mark.y)}" r="{_n(r)}" {paint}',
            None,
            mark.tip,
            tips,
        )
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    }
    points = " ".join(f"{_n(mark.x + r * x)},{_n(mark.y + r * y)}" for x, y in corners[mark.shape])
    return _element("polygon", f'points="{points}" {paint}', None, mark.tip, tips)


def _text(mark: Text, tips: str) -> str:
    turn = f' transform="rotate({mark.rotate} {_n(mark.x)} {_n(mark.y)})"' if mark.rotate else ""
    bold = ' font-weight="600"' if mark.bold else ""
    row = "" if mark.row is None else f' data-r="{mark.row}"'
    tip = f' data-tip="{_escaped(mark.tip)}"' if mark.tip and tips else ""
    return (
        f'<text x="{_n(mark.x)}" y="{_n(mark.y + 0.36 * mark.size)}" font-size="{_n(mark.size)}" '
        f'text-anchor="{mark.anchor}" class="f-{mark.fill}"{bold}{turn}{row}{tip}>'
        f"{escape(short(mark.text))}</text>"
    )


def _element(kind: str, shape: str, row: int | None, tip: str, tips: str) -> str:
    place = "" if row is None else f' data-r="{row}"'
    if not tip:
        return f"<{kind} {shape}{place}/>"
    if tips:
        return f'<{kind} {shape}{place} {tips}="{_escaped(tip)}"/>'
    return f"<{kind} {shape}><title>{_escaped(tip)}</title></{kind}>"


def _escaped(text: str) -> str:
    return escape("\n".join(plain(line) for line in text.split("\n")), quote=True)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
