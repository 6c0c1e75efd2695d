"""``python -m analysis.heads RUN ... [--one-metric] [--out DIR]``: encoders with heads over seeds.

Runs of one seed are read as one, so that systems may come from several folders: dev scores per
task, their average and spread, differences from ``--base`` seed by seed, and what systems took.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.runs import CONFIG, TRAIN_SCORES, find_runs, read_config
from analysis.study_stats import spread
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.grid import Grid, markdown
from moe_tasks.evaluation.scores import Score, as_scores

SYSTEMS_FILE = "systems.json"
USUAL_BASE = "multitask"
_SINGLE = ("ACC", "Pearson-Correlation")
LEFT_OUT = "wnli"  # whose few rows nobody learns; the published average is without it


@dataclass(frozen=True)
class SystemRun:
    """What one system scored, and took, with one seed.

    Attributes:
        scores: task -> score on rows that nothing was trained on.
        single: the same by accuracy or Pearson's correlation alone, where GLUE has the mean of that
            and another metric; empty in runs that did not write it.
        cost: ``parameters``, ``trained``, ``steps``, ``drawn`` and ``used`` (task -> rows).
        encoder: parameters of the encoder alone.
    """

    seed: str
    system: str
    scores: dict[str, float]
    single: dict[str, float]
    cost: dict[str, Any]
    encoder: int


def gather(folders: Sequence[Path]) -> list[SystemRun]:
    """Every system of every finished run at or below ``folders``.

    Raises:
        UserError: no such runs, or a system twice with the same seed.
    """
    found: dict[tuple[str, str], SystemRun] = {}
    for path in (run for folder in folders for run in find_runs(folder)):
        if not (path / SYSTEMS_FILE).is_file():
            continue
        seed, rows, facts = _read(path)
        for system, cost in facts["systems"].items():
            key = (seed, system)
            if key in found:
                raise UserError(f"{path}: system {system!r} is there twice with seed {key[0]}")
            scores = _scores(rows, system)
            single = _single(scores, facts.get("parts"), system)
            found[key] = SystemRun(*key, scores, single, cost, facts["encoder"])
    if not found:
        raise UserError(
            f"no finished run of an encoder with heads in {', '.join(map(str, folders))} "
            f"({SYSTEMS_FILE} is missing)"
        )
    return list(found.values())


def _read(path: Path) -> tuple[str, list[Score], dict[str, Any]]:
    """A run's seed, scores and sizes."""
    try:
        seed = str(read_config(path / CONFIG).get("seed"))
        with (path / TRAIN_SCORES).open(encoding="utf-8", newline="") as file:
            rows = as_scores(csv.DictReader(file))
        return seed, rows, json.loads((path / SYSTEMS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error


def _scores(rows: Sequence[Score], system: str) -> dict[str, float]:
    return {r.task: r.score for r in rows if r.system == system and r.score is not None}


def _single(scores: Mapping[str, float], parts: Any, system: str) -> dict[str, float]:
    if parts is None:
        return {}
    own = {task: score for of, task, metric, score in parts if of == system and metric in _SINGLE}
    return {**scores, **own}


def by_one_metric(runs: Sequence[SystemRun]) -> list[SystemRun]:
    """The same with accuracy or Pearson's correlation where GLUE has the mean of two metrics.

    Raises:
        UserError: a run did not write it.
    """
    for run in runs:
        if not run.single:
            raise UserError(f"system {run.system!r} with seed {run.seed} wrote no single metrics")
    return [replace(run, scores=run.single) for run in runs]


def average(scores: Mapping[str, float]) -> float:
    """Mean over tasks without WNLI; MNLI's two dev sets are one."""
    joined: dict[str, list[float]] = {}
    for task, score in scores.items():
        if task != LEFT_OUT:
            joined.setdefault(task.removesuffix("-mm"), []).append(score)
    return float(np.mean([np.mean(values) for values in joined.values()]))


def table(runs: Sequence[SystemRun], base: str) -> Grid:
    """A row per task and figure, a column per system; means over seeds.

    Raises:
        UserError: no system is called ``base``.
    """
    by_system = _by_system(runs)
    if base not in by_system:
        raise UserError(f"no system {base!r} to compare with; {nearest(base, by_system)}")
    tasks = list(dict.fromkeys(task for run in runs for task in run.scores))
    columns = {
        system: [*_task_cells(own, tasks), *_figures(own, by_system[base])]
        for system, own in by_system.items()
    }
    heads = [*tasks, *_FIGURES]
    rows = [
        ((head, ""), tuple(column[place] for column in columns.values()))
        for place, head in enumerate(heads)
    ]
    title = f"means over seeds; differences from {base} with t-intervals of 95%"
    return Grid(title, ("", ""), tuple(columns), rows, last_is_total=False)


def _by_system(runs: Sequence[SystemRun]) -> dict[str, list[SystemRun]]:
    found: dict[str, list[SystemRun]] = {}
    for run in runs:
        found.setdefault(run.system, []).append(run)
    return found


_FIGURES = (
    "spread over tasks", f"average without {LEFT_OUT}", "... by ACC and Pearson", "over the base",
    "seeds", "parameters / encoder", "trained / encoder", "updates", "rows trained on",
    "of rows drawn",
)  # fmt: skip


def _task_cells(runs: Sequence[SystemRun], tasks: Sequence[str]) -> list[str]:
    means = _means(runs)
    return [f"{means[task]:.3f}" if task in means else "" for task in tasks]


def _means(runs: Sequence[SystemRun]) -> dict[str, float]:
    """Task -> mean score over the runs that have it."""
    tasks = dict.fromkeys(task for run in runs for task in run.scores)
    return {t: float(np.mean([r.scores[t] for r in runs if t in r.scores])) for t in tasks}


def _figures(runs: Sequence[SystemRun], base: Sequence[SystemRun]) -> list[str]:
    of_base = {run.seed: average(run.scores) for run in base}
    averages = {run.seed: average(run.scores) for run in runs}
    over = [value - of_base[seed] for seed, value in averages.items() if seed in of_base]
    spreads = [np.std([s for t, s in run.scores.items() if t != LEFT_OUT]) for run in runs]
    cost, encoder = runs[0].cost, runs[0].encoder
    used = np.mean([sum(run.cost["used"].values()) for run in runs])
    drawn = np.mean([sum(run.cost["drawn"].values()) for run in runs])
    return [
        f"{np.mean(spreads):.3f}",
        f"{np.mean(list(averages.values())):.3f}",
        f"{np.mean([average(r.single) for r in runs]):.3f}" if all(r.single for r in runs) else "",
        _difference(over),
        str(len(runs)),
        f"{cost['parameters'] / encoder:.2f}",
        f"{cost['trained'] / encoder:.2f}",
        f"{cost['steps']:,}",
        f"{used:,.0f}",
        f"{used / drawn:.2f}",
    ]


def _difference(values: Sequence[float]) -> str:
    if not values or not any(values):
        return ""
    found = spread(values)
    interval = found.t_interval
    text = f"{found.mean:+.3f}"
    return text if interval is None else f"{text} ({interval[0]:+.3f} to {interval[1]:+.3f})"


def write(runs: Sequence[SystemRun], base: str, folder: Path) -> list[Path]:
    """``heads.md``, ``heads.csv`` (``seed, system, task, score``) and ``heads.png``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seed", "system", "task", "score"])
    writer.writerows([r.seed, r.system, t, s] for r in runs for t, s in r.scores.items())
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "heads.md", folder / "heads.csv", folder / "heads.png"]
    files[0].write_text(markdown(table(runs, base)) + "\n", encoding="utf-8")
    files[1].write_text(text.getvalue(), encoding="utf-8")
    _draw(runs, files[2])
    return files


def _draw(runs: Sequence[SystemRun], path: Path) -> None:
    from analysis.scores_figure import scores_figure  # matplotlib takes a while

    by_system = _by_system(runs)
    means = {system: _means(own) for system, own in by_system.items()}
    averages = {system: [average(run.scores) for run in own] for system, own in by_system.items()}
    note = f"means over seeds, best in bold; averages without {LEFT_OUT}"
    scores_figure(means, averages, path, title="One encoder, many tasks", note=note)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.heads", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, or above")
    parser.add_argument("--base", help=f"compared with (default: {USUAL_BASE}, or the first)")
    parser.add_argument(
        "--one-metric", action="store_true", help="without F1 and Spearman's correlation"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: RUN)")
    options = parser.parse_args(arguments)
    try:
        for path in options.runs:
            if not path.is_dir():
                raise UserError(f"no folder {path}")
        runs = gather(options.runs)
        runs = by_one_metric(runs) if options.one_metric else runs
        systems = [run.system for run in runs]
        base = options.base or (USUAL_BASE if USUAL_BASE in systems else systems[0])
        files = write(runs, base, options.out or options.runs[0])
        print(markdown(table(runs, base)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("wrote " + ", ".join(map(str, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
