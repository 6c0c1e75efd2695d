"""From the figures of the rounds to the rows of the table."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from analysis.bench.race import Race
from analysis.bench.setting import ALL_EXPERTS, DENSE, Setting
from analysis.output import write_text


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        scheme: ``merge_st``; ``merge_st:PART`` for another figure of it; ``merge_st/all_experts``
            for its ratio to that scheme instead of the dense model.
        num_experts: m; rows of the dense model have that of the processes they ran beside.
        rows, tasks, width: of the batch and the model.
        ratio: median over rounds of the ratio to the base in the same round.
        low, high: quartiles of those ratios.
        absolute, unit: median of the figure itself.
    """

    scheme: str
    num_experts: int
    rows: int
    tasks: int
    width: int
    ratio: float | None
    low: float | None
    high: float | None
    absolute: float
    unit: str

    @property
    def is_main(self) -> bool:
        """Whether it is a scheme's own figure over the dense model."""
        return not {":", "/"} & set(self.scheme)


COLUMNS = [field.name for field in fields(Row)]


def rows_of(
    race: Race, setting: Setting, unit: str, base: str = DENSE, units: dict[str, str] | None = None
) -> list[Row]:
    """The rows of one race: every scheme and figure over ``base``, and over all experts.

    Args:
        unit: of the main figure and all that ``units`` (by name) does not have.
    """
    table = []
    for scheme, rounds in race.results.items():
        if scheme in race.hidden:
            continue
        for key in rounds[0] if rounds else ():
            name = f"{scheme}:{key}" if key else scheme
            table.append(_row(name, race, scheme, key, base, setting, (units or {}).get(key, unit)))
            if ALL_EXPERTS in race.results and scheme not in (ALL_EXPERTS, base):
                over = f"{name}/{ALL_EXPERTS}"
                table.append(_row(over, race, scheme, key, ALL_EXPERTS, setting, table[-1].unit))
    return table


def _row(
    name: str, race: Race, scheme: str, key: str, base: str, setting: Setting, unit: str
) -> Row:
    values = [figures[key] for figures in race.results[scheme]]
    over = [figures.get(key) for figures in race.results.get(base, [])]
    ratios = [a / b for a, b in zip(values, over, strict=False) if b]
    return row(name, setting, ratios, statistics.median(values), unit)


def row(name: str, setting: Setting, ratios: Sequence[float], absolute: float, unit: str) -> Row:
    """A row with the median and the quartiles of ``ratios``."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist() if ratios else [None] * 3
    sizes = (setting.num_experts, setting.rows, setting.tasks, setting.width)
    return Row(name, *sizes, middle, low, high, absolute, unit)


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Write ``path`` as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in rows:
        writer.writerow([_cell(value) for value in astuple(line)])
    write_text(path, text.getvalue())


def shown(rows: Iterable[Row]) -> str:
    """The table for a terminal."""
    lines = [COLUMNS, *([_cell(value) for value in astuple(line)] for line in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
