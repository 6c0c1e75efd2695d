"""All statistics of a report as one mapping, the content of ``statistics.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.report.association import association
from analysis.report.clusters import cluster_statistics
from analysis.report.designs import designs, stability, two_stages
from analysis.report.dropping import dropping
from analysis.report.groups import group_drops
from analysis.report.load import load_statistics
from analysis.report.matching import comparison
from analysis.report.movement import movement
from analysis.report.scores import system_scores
from analysis.report.similarity import similarity
from analysis.report.subject import Subject, run_names, subjects_of
from analysis.report.summary import summary
from analysis.runs import Run, load_run

FORMAT = 1


@dataclass(frozen=True)
class Material:
    """Attributes:
    runs: by name.
    subjects: all route tables, ``moe`` of a run first.
    statistics: see ``gather``.
    """

    runs: Mapping[str, Run]
    subjects: tuple[Subject, ...]
    statistics: dict[str, Any]


def gather(
    paths: Sequence[Path],
    *,
    ontology: Mapping[str, tuple[str, str]] | None = None,
    facts: pd.DataFrame | None = None,
    num_permutations: int = 1000,
    seed: int = 0,
) -> Material:
    """Read run folders and compute everything.

    The mapping holds ``runs`` (name -> ``path, notes, systems``), ``routes`` (name of a route
    table -> ``clusters, association, load, movement, similarity, ablation, ablation_groups``),
    ``designs`` (route tables side by side), ``two_stages``, ``comparison`` (pairs of route
    tables), ``stability`` (over seeds) and ``summary``. What cannot be said is None with a note.

    Args:
        ontology: task -> (category, subcategory), in place of the runs' own.
        facts: as ``Run.facts``, in place of the runs' own ``tasks.json``.

    Raises:
        UserError: a folder is no run folder, or a file in it is broken.
    """
    runs = {name: load_run(path) for name, path in zip(run_names(paths), paths, strict=True)}
    if facts is not None:
        runs = {name: replace(run, facts=facts) for name, run in runs.items()}
    subjects: list[Subject] = []
    about_runs: dict[str, Any] = {}
    for name, run in runs.items():
        found, notes = subjects_of(run, name, ontology)
        subjects += found
        about_runs[name] = {
            "path": str(run.path),
            "notes": notes,
            "systems": system_scores(run),
        }
    options = {"num_permutations": num_permutations, "seed": seed}
    about = {subject.name: _about(subject, options) for subject in subjects}
    pairs = comparison(subjects, seed=seed)
    statistics: dict[str, Any] = {
        "format": FORMAT,
        "num_permutations": num_permutations,
        "seed": seed,
        "runs": about_runs,
        "routes": about,
        "designs": designs(subjects, about),
        "two_stages": two_stages(subjects, seed=seed),
        "comparison": pairs,
        "stability": stability(subjects, pairs),
    }
    return Material(runs, tuple(subjects), {**statistics, "summary": summary(statistics)})


def _about(subject: Subject, options: Mapping[str, int]) -> dict[str, Any]:
    last = subject.last
    lost, grouped = (
        pd.DataFrame(table[table["system"] == subject.system])
        for table in (subject.run.ablation, subject.run.ablation_groups)
    )
    return {
        "system": subject.system,
        "notes": list(subject.notes),
        "num_tasks": len(last.tasks),
        "num_categories": last.tasks["category"].nunique(),
        "layers": [at.name for at in last.layers],
        "steps": [shot.step for shot in subject.shots],
        "clusters": cluster_statistics(last, subject.vectors(), **options),
        "association": association(last, subject.facts, seed=options["seed"]),
        "load": load_statistics(last),
        "movement": movement(subject.shots, **options),
        "similarity": similarity(subject, **options),
        "ablation": dropping(lost, seed=options["seed"]) if len(lost) else _NOT_ABLATED,
        "ablation_groups": group_drops(grouped, seed=options["seed"]) if len(grouped) else [],
    }


_NOT_ABLATED = {"note": "python -m analysis.ablation has not been run", "experts": []}
