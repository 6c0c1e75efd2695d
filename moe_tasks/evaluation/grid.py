"""A table of texts and scores, drawn for the screen or as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

_NARROWEST_LABEL = 20


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: texts that lead each row, then one cell per system."""

    title: str
    heads: tuple[str, ...]
    systems: tuple[str, ...]
    rows: list[tuple[tuple[str, ...], tuple[str, ...]]]
    last_is_total: bool
    notes: tuple[str, ...] = ()


def _label_width(grid: Grid, width: int) -> int:
    """Columns for the first text: what is left of ``width``, within what is legible."""
    second = max([len(grid.heads[1]), *(len(texts[1]) for texts, _ in grid.rows)])
    cells = sum(_cell_width(system) for system in grid.systems)
    longest = max([len(grid.heads[0]), *(len(texts[0]) for texts, _ in grid.rows)])
    return min(longest, max(_NARROWEST_LABEL, width - second - cells - 4))


def _cell_width(system: str) -> int:
    return max(len(system), len("0.000*")) + 2


def broken(grid: Grid, width: int) -> list[Grid]:
    """The grid in parts that fit ``width`` columns, at least one system each."""
    second = max([len(grid.heads[1]), *(len(texts[1]) for texts, _ in grid.rows)])
    lead = _label_width(grid, width) + second + 4
    parts: list[list[int]] = [[]]
    used = lead
    for number, system in enumerate(grid.systems):
        if parts[-1] and used + _cell_width(system) > width:
            parts.append([])
            used = lead
        parts[-1].append(number)
        used += _cell_width(system)
    return [
        Grid(
            grid.title if part is parts[0] else "",
            grid.heads,
            tuple(grid.systems[i] for i in part),
            [(texts, tuple(cells[i] for i in part)) for texts, cells in grid.rows],
            grid.last_is_total,
        )
        for part in parts
    ]


def rich_table(grid: Grid, width: int) -> Table:
    """One part of ``broken`` for a console of ``width`` columns."""
    table = Table(
        title=Text(grid.title) if grid.title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column(Text(grid.heads[0]), overflow="fold", max_width=_label_width(grid, width))
    table.add_column(
        Text(grid.heads[1]), justify="right" if grid.last_is_total else "left", no_wrap=True
    )
    for system in grid.systems:
        table.add_column(Text(system), justify="right", no_wrap=True)
    for number, (texts, cells) in enumerate(grid.rows):
        total = grid.last_is_total and number == len(grid.rows) - 1
        if total:
            table.add_section()
        table.add_row(*(Text(c) for c in (*texts, *cells)), style="bold" if total else None)
    return table


def markdown(grid: Grid) -> str:
    """The whole grid with its title and notes."""
    aligns = ["---", "---:" if grid.last_is_total else "---", *["---:"] * len(grid.systems)]
    lines = [
        markdown_row([*grid.heads, *grid.systems]),
        markdown_row(aligns),
        *(markdown_row([escaped(c) for c in (*texts, *cells)]) for texts, cells in grid.rows),
    ]
    notes = "".join(f"\n\n{escaped(note)}" for note in grid.notes)
    return f"**{grid.title}**\n\n" + "\n".join(lines) + notes


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a table; the cells are ``escaped`` already."""
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Text for Markdown that is shown as it is, whatever signs it has."""
    for sign in "\\`*_|[]":
        text = text.replace(sign, "\\" + sign)
    return text.replace("<", "&lt;").replace("\n", " ")


def wrapped(line: str, width: int, style: str = "") -> Text:
    """A line of prose for the screen, later lines indented."""
    return Text(
        textwrap.fill(line, width, subsequent_indent="    ", break_on_hyphens=False), style=style
    )
