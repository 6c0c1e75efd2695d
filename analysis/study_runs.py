"""The rows of a study: each system in each setting, beside its base of the same seed and split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.agreement import MEASURES, Measure, agreement
from analysis.routes import snapshot
from analysis.study_folders import Incomplete, read_runs
from analysis.study_settings import Setting, flattened
from analysis.study_units import Unit, label, make_units, mean, paired
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.gain import relative_gain


@dataclass(frozen=True)
class StudyRow:
    """One system in one setting, seed and split; gains in percent, None where there is none.

    Attributes:
        runs: usually one, see ``Unit``.
        point: seed, split, and the run's name if one of the two is unknown.
        base: label of what the gains are over. A control such as ``moe_2x`` has a second row over
            its own base ``multitask_2x`` where there is one.
        name: the system, or ``system over base`` in such a second row.
        setting: what tells it from the system's other rows.
        is_base: whether other rows are compared with it.
    """

    runs: tuple[str, ...]
    group: str
    point: tuple[str, str, str]
    system: str
    base: str | None
    name: str
    setting: Setting
    is_base: bool
    num_tasks: int
    train_score: float | None
    unseen_score: float | None
    ratio: float | None
    average_relative_gain: float | None
    num_left_out: int | None
    agreement: Mapping[str, Measure]

    @property
    def label(self) -> str:
        """Same for all seeds and splits, another one for each setting."""
        return label(self.name, self.setting)

    @property
    def seed(self) -> str:
        return self.point[0]

    @property
    def split(self) -> str:
        return self.point[1]


@dataclass
class Study:
    """All rows of a study: the base first, then the best first.

    Attributes:
        base: the system, or the label of the row, that all others are compared with.
        incomplete: (run, what it lacks or why it is left out).
        notes: what a reader of the tables must know.
    """

    base: str
    rows: list[StudyRow] = field(default_factory=list)
    incomplete: Incomplete = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(
    folders: Path | Sequence[Path], base: str = "multitask", by: Sequence[str] = ()
) -> Study:
    """Read all runs at or below ``folders``.

    Args:
        base: a system, or the label of one row.
        by: dotted configuration keys; runs that differ in them go to different groups.

    Raises:
        UserError: no runs, none of them finished, or no run has ``base``.
    """
    study = Study(base)
    runs = read_runs([folders] if isinstance(folders, Path) else folders, study.incomplete)
    known = {key for run in runs.values() for key in flattened(run.config)}
    for key in by:
        if key not in known:
            raise UserError(f"--by: no run has the key {key!r}; {nearest(key, known)}")
    units = make_units(runs, base, by)
    names = dict.fromkeys([*(u.system for u in units), *(u.label for u in units)])
    if base not in names:
        raise UserError(f"no run has scores of system {base!r}; {nearest(base, names)}")
    study.rows = _ordered([row for unit in units for row in _rows(unit, units, study)])
    study.notes += [*_pooled_notes(units), *_absence_notes(study.rows)]
    return study


def _rows(unit: Unit, units: Sequence[Unit], study: Study) -> list[StudyRow]:
    is_base = study.base in (unit.system, unit.label)
    first = StudyRow(
        runs=unit.names,
        group=unit.group,
        point=unit.point,
        system=unit.system,
        name=unit.system,
        setting=unit.setting,
        is_base=is_base,
        num_tasks=len(unit.unseen),
        train_score=mean(unit.trained.values()),
        unseen_score=mean(unit.unseen.values()),
        agreement=_agreement(unit, study),
        **_gain(unit, None if is_base else paired(unit, units, study.base)),
    )
    own = f"{study.base}_{unit.system.rpartition('_')[2]}"
    base = paired(unit, units, own)
    if base is None or own == unit.system:
        return [first]
    name = f"{unit.system} over {own}"
    return [first, replace(first, name=name, agreement={}, **_gain(unit, base))]


def _gain(unit: Unit, base: Unit | None) -> dict[str, Any]:
    gain = None
    if base is not None and unit.unseen and base.unseen:
        scores = [*unit.scores, *base.scores]
        gain = relative_gain(scores, unit.label, base.label, num_bootstrap=0)
    return {
        "base": base.label if base else None,
        "ratio": _percent(gain.gain_of_mean) if gain else None,
        "average_relative_gain": _percent(gain.average) if gain else None,
        "num_left_out": gain.num_left_out if gain else None,
    }


def _agreement(unit: Unit, study: Study) -> dict[str, Measure]:
    run = next((run for run in reversed(unit.runs) if unit.system in run.routes), None)
    if run is None:
        return {}
    try:
        found = agreement(snapshot(run.routes[unit.system]))
    except UserError as error:
        study.incomplete.append((run.name, f"routes of {unit.system}: {error}"))
        return {}
    return {measure: getattr(found, measure) for measure in MEASURES}


def _ordered(rows: list[StudyRow]) -> list[StudyRow]:
    """By group; the base first, then by mean unseen score; within a label by split and seed."""
    scores: dict[tuple[str, str], list[float | None]] = {}
    for row in rows:
        scores.setdefault((row.group, row.label), []).append(row.unseen_score)
    groups = list(dict.fromkeys(row.group for row in rows))

    def place(row: StudyRow) -> tuple[Any, ...]:
        score = mean(scores[row.group, row.label])
        rank = (not row.is_base, float("inf") if score is None else -score)
        return (groups.index(row.group), *rank, row.label, order(row.split), order(row.seed))

    return sorted(rows, key=place)


def order(text: str) -> tuple[float, str]:
    """Sorts numbers by value, before other texts."""
    return (float(text), "") if text.isdecimal() else (float("inf"), text)


def _pooled_notes(units: Iterable[Unit]) -> list[str]:
    by_label: dict[str, list[Unit]] = {}
    for unit in units:
        if len(unit.runs) > 1:
            by_label.setdefault(unit.label, []).append(unit)
    if not by_label:
        return []
    notes = [
        "Counted once per seed and split, as the runs that have them differ only in what they do "
        f"not depend on: {', '.join(by_label)}."
    ]
    for name, same in by_label.items():
        worst = max(same, key=lambda unit: unit.disagreement)
        if worst.disagreement > 1e-9:
            notes.append(
                f"{name}: these runs should agree, but their mean unseen scores lie up to "
                f"{worst.disagreement:.4f} apart ({_place(worst.point)}, runs "
                f"{', '.join(worst.names)}); their mean is used."
            )
    return notes


def _absence_notes(rows: Sequence[StudyRow]) -> list[str]:
    """Means over different runs should not be compared unawares."""
    notes = []
    for group in dict.fromkeys(row.group for row in rows):
        points: dict[str, set[tuple[str, str, str]]] = {}
        for row in rows:
            if row.group == group:
                points.setdefault(row.label, set()).add(row.point)
        everywhere = set().union(*points.values())
        lacking = [
            f"{name} ({'; '.join(map(_place, sorted(everywhere - present)))})"
            for name, present in points.items()
            if present != everywhere
        ]
        if lacking:
            notes.append(
                f"Without some seeds or splits{f' ({group})' if group else ''}, so that their "
                f"mean scores are over fewer runs than others': {', '.join(lacking)}."
            )
    return notes


def _place(point: Sequence[str]) -> str:
    seed, split, run = point
    return run or f"seed {seed}, split {split}"


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction
