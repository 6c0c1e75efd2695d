"""The runs of a study, read and compared: one row per run and system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.agreement import MEASURES, Measure, agreement
from analysis.routes import snapshot
from analysis.runs import CONFIG, SCORES, Run, find_runs, load_run, score_rows
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.gain import relative_gain
from moe_tasks.evaluation.scores import Score, ordered_systems, task_means


@dataclass(frozen=True)
class StudyRow:
    """One system in one run; gains in percent, None where a number cannot be had.

    ``base`` is the system that the gains are over. A control such as ``moe_2x`` has a second row
    over its own base ``multitask_2x`` where there is one.
    """

    run: str
    group: str
    seed: str
    split: str
    system: str
    base: str
    label: str
    num_tasks: int
    train_score: float | None
    unseen_score: float | None
    ratio: float | None
    average_relative_gain: float | None
    num_left_out: int | None
    agreement: Mapping[str, Measure]


@dataclass
class Study:
    """All runs of a study.

    Attributes:
        base: the system that all others are compared with.
        incomplete: (run, what it lacks or why it is left out).
        notes: what a reader of the tables must know.
    """

    base: str
    rows: list[StudyRow] = field(default_factory=list)
    incomplete: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(folder: Path, base: str = "multitask", by: Sequence[str] = ()) -> Study:
    """Read all runs at or below ``folder``.

    Args:
        by: dotted configuration keys; runs that differ in them go to different groups.

    Raises:
        UserError: no runs, none of them finished, or no run has ``base``.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    paths = find_runs(folder)
    if not paths:
        raise UserError(f"no run folders below {folder} (a run folder holds config.yaml)")
    study = Study(base)
    runs = _without_repeats(_finished(folder, paths, study), by, study)
    if not runs:
        reasons = "; ".join(f"{run}: {reason}" for run, reason in study.incomplete[:3])
        raise UserError(f"none of {len(paths)} runs below {folder} can be used: {reasons}")
    _check_keys(runs, by)
    systems = {s for run in runs.values() for s in run.scores["system"].tolist()}
    if base not in systems:
        raise UserError(f"no run has scores of system {base!r}; {nearest(base, systems)}")
    for name, run in runs.items():
        study.rows += _rows(name, run, by, study)
    _note_absent_systems(study)
    _note_settings(runs, by, study)
    return study


def _finished(folder: Path, paths: Iterable[Path], study: Study) -> dict[str, Run]:
    runs = {}
    for path in paths:
        name = path.relative_to(folder).as_posix() if path != folder else path.resolve().name
        absent = next((f for f in (CONFIG, SCORES) if not (path / f).is_file()), None)
        if absent:
            study.incomplete.append((name, f"{absent} is missing: the run has not finished"))
            continue
        try:
            run = load_run(path)
        except UserError as error:
            study.incomplete.append((name, str(error)))
            continue
        if run.scores.empty:
            study.incomplete.append((name, f"{SCORES} has no rows"))
        else:
            runs[name] = run
    return runs


def _without_repeats(runs: dict[str, Run], by: Sequence[str], study: Study) -> dict[str, Run]:
    """Of runs with one seed and split the last: repeats are no independent evidence."""
    last: dict[tuple[str, ...], str] = {}
    for name, run in runs.items():
        key = (_group(run, by), _seed(run), _split(run))
        if key in last and "?" not in key:
            reason = f"left out: {name} has the same seed and split and is later by name"
            study.incomplete.append((last[key], reason))
        last[key if "?" not in key else (name,)] = name
    kept = set(last.values())
    return {name: run for name, run in runs.items() if name in kept}


def _check_keys(runs: Mapping[str, Run], by: Sequence[str]) -> None:
    known = {key for run in runs.values() for key, _ in _flattened(run.config)}
    for key in by:
        if key not in known:
            raise UserError(f"--by: no run has the key {key!r}; {nearest(key, known)}")


def _rows(name: str, run: Run, by: Sequence[str], study: Study) -> list[StudyRow]:
    try:
        scores, train = (score_rows(frame) for frame in (run.scores, run.train_scores))
    except UserError as error:
        study.incomplete.append((name, str(error)))
        return []
    _note_absent_scores(name, scores, study)
    trained = task_means(train, "test" if any(s.split == "test" for s in train) else "dev")
    systems = ordered_systems(scores)
    rows = []
    for system in systems:
        for base in _bases(system, study.base, systems):
            row = StudyRow(
                run=name,
                group=_group(run, by),
                seed=_seed(run),
                split=_split(run),
                system=system,
                base=base,
                label=system if base == study.base else f"{system} over {base}",
                train_score=_mean(trained.get(system, {})),
                agreement=_agreement(name, run, system, study) if base == study.base else {},
                **_compared(scores, system, base),
            )
            rows.append(row)
    return rows


def _bases(system: str, base: str, systems: Sequence[str]) -> list[str]:
    suffix = system.rpartition("_")[2]
    own = f"{base}_{suffix}"
    return [base, own] if own in systems and own != system else [base]


def _compared(scores: list[Score], system: str, base: str) -> dict[str, Any]:
    means = task_means(scores)
    mine, theirs = means.get(system, {}), means.get(base, {})
    gain = None
    if system != base and mine and theirs:
        gain = relative_gain(scores, system, base, num_bootstrap=0)
    return {
        "num_tasks": len(mine),
        "unseen_score": _mean(mine),
        "ratio": _percent(gain.gain_of_mean) if gain else None,
        "average_relative_gain": _percent(gain.average) if gain else None,
        "num_left_out": gain.num_left_out if gain else None,
    }


def _note_absent_scores(name: str, scores: list[Score], study: Study) -> None:
    means = task_means(scores)
    tasks = list(dict.fromkeys(s.task for s in scores))
    for system in ordered_systems(scores):
        absent = [task for task in tasks if task not in means.get(system, {})]
        if absent:
            what = f"{system} has no test score on {len(absent)} of {len(tasks)} unseen tasks"
            some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            study.incomplete.append((name, f"{what}: {some}"))


def _agreement(name: str, run: Run, system: str, study: Study) -> dict[str, Measure]:
    if system not in run.routes:
        return {}
    try:
        found = agreement(snapshot(run.routes[system]))
    except UserError as error:
        study.incomplete.append((name, f"routes of {system}: {error}"))
        return {}
    return {measure: getattr(found, measure) for measure in MEASURES}


def _note_absent_systems(study: Study) -> None:
    for group in dict.fromkeys(row.group for row in study.rows):
        rows = [row for row in study.rows if row.group == group]
        systems = dict.fromkeys(row.system for row in rows)
        for run in dict.fromkeys(row.run for row in rows):
            absent = systems.keys() - {row.system for row in rows if row.run == run}
            if absent:
                study.incomplete.append((run, f"no scores of {', '.join(sorted(absent))}"))


def _note_settings(runs: Mapping[str, Run], by: Sequence[str], study: Study) -> None:
    """Runs that differ in more than seed and split should not be averaged unawares."""
    flat = [dict(_flattened(run.config)) for run in runs.values()]
    for key in dict.fromkeys(key for config in flat for key in config):
        values = list(dict.fromkeys(str(config.get(key, "unset")) for config in flat))
        expected = key in ("tasks.split", *by) or key.rpartition(".")[2] in ("seed", "run_dir")
        if len(values) > 1 and not expected:
            shown = ", ".join(values[:4]) + (", ..." if len(values) > 4 else "")
            study.notes.append(
                f"The runs differ in {key} ({shown}) and are averaged all the same; "
                f"--by {key} separates them."
            )


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _setting(run: Run, key: str) -> str:
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "?" if value is None else str(value)


def _group(run: Run, by: Sequence[str]) -> str:
    return ", ".join(f"{key}={_setting(run, key)}" for key in by)


def _seed(run: Run) -> str:
    return _setting(run, "seed")


def _split(run: Run) -> str:
    return _setting(run, "tasks.split")


def _mean(means: Mapping[str, float]) -> float | None:
    return sum(means.values()) / len(means) if means else None


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
