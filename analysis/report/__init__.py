"""``python -m analysis.report RUN [RUN ...] --out DIR``: what the experts learned, as one page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.output import write_text
from analysis.report.figures import comparison_figure, figures
from analysis.report.files import slug, write_figure
from analysis.report.maps import check_method
from analysis.report.page import Part, Shown, page
from analysis.report.statistics import gather

PAGE, STATISTICS = "report.html", "statistics.json"
Ontology = Mapping[str, tuple[str, str]]


def write(folder: Path) -> Path:
    """The report of one run in its folder ``report``; returns the page."""
    out = folder / "report"
    arguments = [str(folder), "--out", str(out)]
    return write_report([folder], out, shlex.join(["python", "-m", "analysis.report", *arguments]))


def write_report(
    runs: Sequence[Path],
    out: Path,
    command: str,
    *,
    ontology: Ontology | None = None,
    facts: pd.DataFrame | None = None,
    num_permutations: int = 1000,
    seed: int = 0,
    method: str = "pca",
) -> Path:
    """Write ``report.html``, ``statistics.json`` and each figure as PNG, SVG and CSV into ``out``.

    Args:
        method: of the maps of tasks, ``pca`` or ``umap``.

    Raises:
        UserError: see ``gather``; ``out`` cannot be written to; umap-learn is not installed.
    """
    check_method(method)
    material = gather(
        runs, ontology=ontology, facts=facts, num_permutations=num_permutations, seed=seed
    )
    statistics = material.statistics
    text = json.dumps(statistics, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / STATISTICS, text + "\n")
    taken: set[str] = set()
    parts = []
    for subject in material.subjects:
        about, stem = statistics["routes"][subject.name], slug(subject.name, taken)
        shown = []
        for figure in figures(subject, about, method=method, seed=seed):
            write_figure(out, f"{stem}-{figure.key}", figure)
            shown.append(Shown(f"{stem}-{figure.key}", figure, command))
        parts.append(Part(stem, subject.name, about, shown))
    comparison = None
    if statistics["comparison"]:
        figure = comparison_figure(list(statistics["routes"]), statistics["comparison"])
        comparison = Shown(slug("comparison", taken), figure, command)
        write_figure(out, comparison.stem, figure)
    write_text(out / PAGE, page(statistics, parts, comparison, command))
    return out / PAGE
