"""Cells of zero-shot evaluations as one table: tasks x templates x systems.

``python -m analysis.sweep DIR [DIR ...] --out DIR`` gathers the cells that
``python -m moe_tasks.evaluate`` left below and writes ``table.csv``, ``sweep.md``, ``sweep.png``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analysis.output import write_text
from analysis.sweep_cells import Sweep, read_sweep
from analysis.sweep_figure import sweep_figure
from analysis.sweep_stats import Comparison, compare, run_ratios, task_rows
from analysis.sweep_table import sweep_markdown
from moe_tasks.errors import UserError, nearest

BASE = "multitask"
_DESCRIPTION = """\
Gather the cells below DIR that python -m moe_tasks.evaluate left, from their files alone: per task
and system the mean, median and spread over templates beside chance and majority, and each system's
paired difference to BASE with a bootstrap interval."""


def write_sweep(folders: Sequence[Path], out: Path, how: str = "sum", base: str = "") -> str:
    """Write ``table.csv``, ``sweep.md`` and ``sweep.png`` into ``out``; returns the Markdown.

    Args:
        how: which ranking of options counts, ``sum`` or ``mean``.
        base: label of the system to compare with; ``multitask``, or else the first, if empty.

    Raises:
        UserError: no cells there, or an unknown base.
    """
    sweep = read_sweep(folders)
    rows = task_rows(sweep.cells, how)
    comparisons = _comparisons(sweep, base, how)
    by_run = {c.label: run_ratios(sweep.cells, c.label, c.base, how) for c in comparisons}
    text = sweep_markdown(sweep, rows, comparisons, by_run, how)
    table = pd.DataFrame([asdict(row) for row in rows])
    write_text(out / "table.csv", table.to_csv(index=False))
    write_text(out / "sweep.md", text)
    gains = {label: list(ratios.values()) for label, ratios in by_run.items()}
    sweep_figure(rows, comparisons, gains, out / "sweep.png")
    return text


def _comparisons(sweep: Sweep, base: str, how: str) -> list[Comparison]:
    labels = sweep.labels
    if base and base not in labels:
        raise UserError(f"no system {base!r} in these cells; {nearest(base, labels)}")
    base = base or (BASE if BASE in labels else labels[0])
    found = [compare(sweep.cells, label, base, how) for label in labels if label != base]
    return [comparison for comparison in found if comparison is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.sweep",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dirs", metavar="DIR", type=Path, nargs="+", help="folder with cells")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write (default: the first DIR)"
    )
    parser.add_argument(
        "--score",
        choices=("sum", "mean"),
        default="sum",
        help="rank options by summed log-probability (default) or per token",
    )
    parser.add_argument(
        "--base", default="", help=f"label of the system to compare with (default: {BASE})"
    )
    options = parser.parse_args(arguments)
    out = options.out or options.dirs[0]
    try:
        print(write_sweep(options.dirs, out, options.score, options.base))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out / 'table.csv'}, {out / 'sweep.md'}, {out / 'sweep.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
