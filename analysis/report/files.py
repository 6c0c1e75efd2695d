"""Files beside the page: pictures and their data."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from analysis.output import write_text
from analysis.report.figures import Figure
from analysis.report.png import write_png
from analysis.report.svg import own_file

# A spreadsheet runs a cell that starts with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def slug(name: str, taken: set[str]) -> str:
    """A file name of letters, digits, dots and dashes for ``name``, and not yet ``taken``."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:60] or "run"
    found, number = base, 2
    while found.casefold() in taken:
        found, number = f"{base}-{number}", number + 1
    taken.add(found.casefold())
    return found


def csv_text(data: pd.DataFrame) -> str:
    """CSV that a spreadsheet shows as it is: texts that look like formulas get a ``'``."""
    safe = data.copy()
    for column in safe.columns:
        if safe[column].dtype.kind in "OUST" or str(safe[column].dtype).startswith("str"):
            known = {value: _safe(value) for value in set(map(_hashable, safe[column]))}
            safe[column] = [known[_hashable(value)] for value in safe[column]]
    safe.columns = pd.Index([_safe(str(column)) for column in safe.columns])
    return safe.to_csv(index=False, lineterminator="\n")


def write_figure(out: Path, stem: str, figure: Figure) -> None:
    """``STEM.svg``, ``STEM.png`` and ``STEM.csv``."""
    write_text(out / f"{stem}.svg", own_file(figure.scene))
    write_text(out / f"{stem}.csv", csv_text(figure.data))
    write_png(figure.scene, out / f"{stem}.png")


def _hashable(value: object) -> object:
    return str(value) if isinstance(value, list | dict | tuple) else value


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
