"""Finding and reading the run folders of a study."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import CONFIG, SCORES, find_runs, load_run, score_rows
from analysis.study_settings import value_text, whole_setting
from moe_tasks.errors import UserError
from moe_tasks.evaluation.scores import Score, ordered_systems, task_means

Incomplete = list[tuple[str, str]]  # (run, what it lacks or why it is left out)


@dataclass(frozen=True)
class StudyRun:
    """A finished run; ``name`` is its folder below the study's."""

    name: str
    config: Mapping[str, Any]
    scores: list[Score]
    train_scores: list[Score]
    routes: Mapping[str, pd.DataFrame]

    @property
    def seed(self) -> str:
        return value_text(self.config, "seed")

    @property
    def split(self) -> str:
        return value_text(self.config, "tasks.split")

    @property
    def point(self) -> tuple[str, str, str]:
        """What paired runs share: seed and split; unknown ones are shared with no other run."""
        known = "?" not in (self.seed, self.split)
        return (self.seed, self.split, "" if known else self.name)


def read_runs(folders: Sequence[Path], incomplete: Incomplete) -> dict[str, StudyRun]:
    """All runs at or below ``folders`` that can be used; the others go to ``incomplete``.

    Raises:
        UserError: a folder is missing or has no runs, or no run at all can be used.
    """
    paths: dict[Path, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}")
        found = find_runs(folder)
        if not found:
            raise UserError(f"no run folders below {folder} (a run folder holds {CONFIG})")
        for path in found:
            paths.setdefault(path.resolve(), _name(path, folder, len(folders) > 1))
    read = {name: _read(path, name, incomplete) for path, name in paths.items()}
    runs = _without_repeats({name: run for name, run in read.items() if run}, incomplete)
    if not runs:
        reasons = "; ".join(f"{run}: {reason}" for run, reason in incomplete[:3])
        where = ", ".join(map(str, folders))
        raise UserError(f"none of {len(paths)} runs below {where} can be used: {reasons}")
    _list_absent(runs.values(), incomplete)
    return runs


def _name(path: Path, folder: Path, of_several: bool) -> str:
    if of_several:
        return path.as_posix()
    return path.relative_to(folder).as_posix() if path != folder else path.resolve().name


def _read(path: Path, name: str, incomplete: Incomplete) -> StudyRun | None:
    absent = next((f for f in (CONFIG, SCORES) if not (path / f).is_file()), None)
    if absent:
        incomplete.append((name, f"{absent} is missing: the run has not finished"))
        return None
    try:
        run = load_run(path)
        scores, train = score_rows(run.scores), score_rows(run.train_scores)
    except UserError as error:
        incomplete.append((name, str(error)))
        return None
    if not scores:
        incomplete.append((name, f"{SCORES} has no rows"))
        return None
    return StudyRun(name, run.config, scores, train, run.routes)


def _without_repeats(runs: dict[str, StudyRun], incomplete: Incomplete) -> dict[str, StudyRun]:
    """Of runs with one setting, seed and split the last: repeats are no independent evidence."""
    last: dict[Any, str] = {}
    for name, run in runs.items():
        key = (run.point, whole_setting(run.config))
        if key in last:
            reason = f"left out: {name} has the same setting, seed and split and comes later"
            incomplete.append((last[key], reason))
        last[key] = name
    kept = set(last.values())
    return {name: run for name, run in runs.items() if name in kept}


def _list_absent(runs: Collection[StudyRun], incomplete: Incomplete) -> None:
    """List systems and unseen tasks without scores."""
    anywhere = dict.fromkeys(s.system for run in runs for s in run.scores)
    for run in runs:
        means = task_means(run.scores)
        tasks = list(dict.fromkeys(s.task for s in run.scores))
        present = ordered_systems(run.scores)
        for system in present:
            absent = [task for task in tasks if task not in means.get(system, {})]
            if absent:
                what = f"{system} has no test score on {len(absent)} of {len(tasks)} unseen tasks"
                some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
                incomplete.append((run.name, f"{what}: {some}"))
        expected = run.config.get("systems")
        missing = set(expected if isinstance(expected, dict) else anywhere) - set(present)
        if missing:
            incomplete.append((run.name, f"no scores of {', '.join(sorted(missing))}"))
