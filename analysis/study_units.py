"""Scores of a study by system, setting, seed and split; which of them are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from analysis.study_folders import StudyRun
from analysis.study_settings import Setting, find_settings, group_text
from moe_tasks.evaluation.scores import Score, ordered_systems, task_means


@dataclass(frozen=True)
class Unit:
    """What one system in one setting scored with one seed and split.

    Attributes:
        group: values of the keys whose tables are separate.
        point: seed, split, and the run's name if one of the two is unknown.
        of_base: see ``find_settings``.
        runs: usually one. Runs that differ only in what the system does not depend on (the router
            of a dense model) make one unit together.
    """

    group: str
    point: tuple[str, str, str]
    system: str
    setting: Setting
    of_base: frozenset[tuple[str, str]]
    runs: tuple[StudyRun, ...]

    @property
    def label(self) -> str:
        """Same for all seeds and splits, another one for each setting."""
        return label(self.system, self.setting)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the runs."""
        return tuple(run.name for run in self.runs)

    @cached_property
    def scores(self) -> list[Score]:
        """Unseen tasks, means over the runs; ``system`` is the label."""
        return self._pooled(run.scores for run in self.runs)

    @cached_property
    def unseen(self) -> dict[str, float]:
        """Task -> mean test score."""
        return task_means(self.scores).get(self.label, {})

    @cached_property
    def trained(self) -> dict[str, float]:
        """Training task -> mean score on its test rows (dev rows where there are no others)."""
        scores = self._pooled(run.train_scores for run in self.runs)
        split = "test" if any(s.split == "test" for s in scores) else "dev"
        return task_means(scores, split).get(self.label, {})

    @property
    def disagreement(self) -> float:
        """Largest difference of the runs' mean unseen scores."""
        tables = (task_means(run.scores).get(self.system, {}).values() for run in self.runs)
        means = [m for m in map(mean, tables) if m is not None]
        return max(means) - min(means) if means else 0.0

    def _pooled(self, tables: Iterable[list[Score]]) -> list[Score]:
        found: dict[tuple[str, str, str], list[Score]] = {}
        for s in chain.from_iterable(tables):
            if s.system == self.system:
                found.setdefault((s.task, s.sample, s.split), []).append(s)
        return [
            replace(same[0], system=self.label, score=mean(s.score for s in same))
            for same in found.values()
        ]


def make_units(runs: Mapping[str, StudyRun], base: str, by: Sequence[str]) -> list[Unit]:
    """The units of all runs; ``base`` is a system, or else the label of one row."""
    having: dict[str, list[str]] = {}
    for name, run in runs.items():
        for system in ordered_systems(run.scores):
            having.setdefault(system, []).append(name)
    configs = {name: run.config for name, run in runs.items()}
    settings, of_base = find_settings(configs, having, base if base in having else None, by)
    found: dict[tuple[Any, ...], list[StudyRun]] = {}
    for system, names in having.items():
        for name in names:
            group = group_text(configs[name], by)
            key = (group, runs[name].point, system, settings[name, system], of_base[name])
            found.setdefault(key, []).append(runs[name])
    return [Unit(*key, runs=tuple(same)) for key, same in found.items()]


def paired(unit: Unit, units: Iterable[Unit], base: str) -> Unit | None:
    """The unit of ``base`` (a system or a label) that ``unit`` is compared with: of its seed and
    split, if possible of its run; None where there is none or several could be meant."""
    same = [u for u in units if u.point == unit.point and base in (u.system, u.label)]
    found = [u for u in same if u.label == base or u.of_base == unit.of_base]
    own = [u for u in found if set(u.names) & set(unit.names)]
    found = own or [u for u in found if u.group == unit.group] or found
    return found[0] if len({u.setting for u in found}) == 1 else None


def label(name: str, setting: Setting) -> str:
    """``moe: router=lstm, selection=softmax``."""
    words = ", ".join(f"{key}={value}" for key, value in setting)
    return f"{name}: {words}" if words else name


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known, if there are any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
