"""The page, from statistics and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from analysis.report import rows
from analysis.report.figures import Figure
from analysis.report.scene import number, p_text, plain
from analysis.report.svg import colour_css, inside_page

_FOLDER = files("analysis.report")


@dataclass(frozen=True)
class Shown:
    """A figure on the page: ``stem`` names its files and its element."""

    stem: str
    figure: Figure
    command: str

    @property
    def svg(self) -> Markup:
        return Markup(inside_page(self.figure.scene, f"fig-{self.stem}"))  # all texts are escaped

    @property
    def extra(self) -> Markup:
        """What the script needs, as JSON of numbers and base64."""
        return Markup(json.dumps(self.figure.extra) if self.figure.extra else "")


@dataclass(frozen=True)
class Part:
    """A route table on the page."""

    anchor: str
    name: str
    about: Mapping[str, Any]
    shown: Sequence[Shown]

    def of(self, section: str) -> list[Shown]:
        return [shown for shown in self.shown if shown.figure.section == section]


def page(
    statistics: Mapping[str, Any], parts: Sequence[Part], comparison: Shown | None, command: str
) -> str:
    """``report.html``: needs nothing from outside; names from runs are escaped."""
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(number=number, p=p_text, plain=plain)
    return environment.get_template("page.html").render(
        statistics=statistics,
        parts=parts,
        comparison=comparison,
        command=command,
        sections=rows.SECTIONS,
        **{name: row for name, row in vars(rows).items() if name.endswith("_rows")},
        style=Markup(colour_css() + _text("page.css")),  # our own files
        script=Markup(_text("page.js")),
    )


def _text(name: str) -> str:
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")
