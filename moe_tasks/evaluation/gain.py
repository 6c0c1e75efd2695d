"""How much better one system is than another over the unseen tasks.

Two measures. The *average relative gain* (ARG; Ye et al., arXiv 2205.12701) is the mean over
tasks of (new - base) / base: tasks with small bases weigh most in it. The *gain of the mean*
is mean(new) / mean(base) - 1 over all tasks that both systems scored: robust against small
bases, and defined where a single base is zero.

Imports neither torch nor datasets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_tasks.config import from_mapping
from moe_tasks.errors import UserError, nearest
from moe_tasks.evaluation.bootstrap import percentile_interval, resampled_means
from moe_tasks.evaluation.scores import Score, as_scores, categories_of

ZERO = 1e-12


@dataclass(frozen=True)
class TaskGain:
    """One task that both systems scored; ``gain`` is None where the base cannot be divided by.

    ``new`` and ``base`` are means over the ``num_samples`` samples that both scored;
    ``num_unpaired`` samples were scored by one of the two only and are not used.
    """

    category: str
    new: float
    base: float
    gain: float | None
    num_samples: int
    num_unpaired: int


@dataclass(frozen=True)
class LeftOut:
    """A task that the average relative gain does not include, and why."""

    reason: str
    new: float | None
    base: float | None


@dataclass(frozen=True)
class CategoryGain:
    """Means over one category's tasks that both systems scored."""

    num_tasks: int
    new: float
    base: float
    average: float | None
    gain_of_mean: float | None


@dataclass(frozen=True)
class Gain:
    """``system`` over ``base``; gains are fractions (0.05 is +5%).

    Attributes:
        average: average relative gain over the ``num_tasks`` tasks with a positive base.
        gain_of_mean: over all tasks in ``per_task``; None when the mean base is not positive.
        interval, gain_of_mean_interval: bootstrap 95% (see ``relative_gain``); None with fewer
            than two tasks, or where resamples of the mean base are not all positive.
        num_up, num_down, num_equal: of all tasks in ``per_task``.
        left_out: every task that ``average`` leaves out. Those that both systems scored are in
            ``per_task`` too.
    """

    system: str
    base: str
    average: float | None
    interval: tuple[float, float] | None
    num_tasks: int
    num_left_out: int
    gain_of_mean: float | None
    gain_of_mean_interval: tuple[float, float] | None
    num_up: int
    num_down: int
    num_equal: int
    per_category: dict[str, CategoryGain]
    per_task: dict[str, TaskGain]
    left_out: dict[str, LeftOut]
    num_bootstrap: int
    seed: int


@dataclass(frozen=True)
class _Pairs:
    """Scores of one task on the samples that both systems scored, ``[samples]`` each."""

    new: np.ndarray
    base: np.ndarray
    num_unpaired: int


def relative_gain(
    rows: Iterable[Any],
    system: str,
    base: str,
    *,
    split: str = "test",
    num_bootstrap: int = 10_000,
    seed: int = 0,
) -> Gain:
    """Gain of ``system`` over ``base`` from score rows (see ``scores.as_scores``).

    A task's scores are means over the samples that both systems scored. A zero, negative or
    missing base is listed in ``left_out`` and never divided by.

    The intervals are percentile bootstraps in two stages: tasks are drawn with replacement,
    then, within each drawn task that has several samples, samples are drawn with replacement,
    both systems' scores together. In the average relative gain the denominator stays the
    task's base over all its samples, because the base of a resample can be zero.

    Args:
        num_bootstrap: resamples; 0 computes no intervals.

    Raises:
        UserError: no rows of one of the systems, or malformed rows.
    """
    scores = as_scores(rows)
    for name in (system, base):
        if not any(s.system == name and s.split == split for s in scores):
            known = [s.system for s in scores if s.split == split]
            raise UserError(f"no {split} scores of system {name!r}; {nearest(name, known)}")
    per_task, pairs, left_out = _compare(scores, system, base, split)
    usable = [t for t in pairs if t not in left_out]
    rng = np.random.default_rng(seed)
    changes = [t.new - t.base for t in per_task.values()]
    return Gain(
        system=system,
        base=base,
        average=_average(per_task.values()),
        interval=_average_interval([pairs[t] for t in usable], num_bootstrap, rng),
        num_tasks=len(usable),
        num_left_out=len(left_out),
        gain_of_mean=_gain_of_mean(list(per_task.values())),
        gain_of_mean_interval=_mean_interval(list(pairs.values()), num_bootstrap, rng),
        num_up=sum(c > ZERO for c in changes),
        num_down=sum(c < -ZERO for c in changes),
        num_equal=sum(abs(c) <= ZERO for c in changes),
        per_category=_per_category(per_task),
        per_task=per_task,
        left_out=left_out,
        num_bootstrap=num_bootstrap,
        seed=seed,
    )


def counts_most(gain: Gain) -> tuple[str, float] | None:
    """The task without which the average relative gain would change most, and what it would be.

    ``None`` for fewer than three tasks, whose average says little with any of them.
    """
    gains = {name: task.gain for name, task in gain.per_task.items() if task.gain is not None}
    if gain.average is None or len(gains) < 3:
        return None
    average = gain.average
    name = max(gains, key=lambda task: abs(gains[task] - average))
    return name, (average * len(gains) - gains[name]) / (len(gains) - 1)


def gain_json(gains: Iterable[Gain]) -> dict[str, Any]:
    """``{"moe_over_multitask": {...}, ...}``: content of ``gain.json``, no NaN inside."""
    return {f"{g.system}_over_{g.base}": dataclasses.asdict(g) for g in gains}


def gains_from_json(content: Mapping[str, Any]) -> dict[str, Gain]:
    """Inverse of ``gain_json``.

    Raises:
        UserError: unknown or missing keys, wrong types.
    """
    return {str(name): from_mapping(Gain, values, str(name)) for name, values in content.items()}


def _compare(
    scores: list[Score], system: str, base: str, split: str
) -> tuple[dict[str, TaskGain], dict[str, _Pairs], dict[str, LeftOut]]:
    by_sample: dict[tuple[str, str], dict[str, float]] = {}
    for s in scores:
        if s.split == split and s.score is not None:
            by_sample.setdefault((s.system, s.task), {})[s.sample] = s.score
    per_task: dict[str, TaskGain] = {}
    pairs: dict[str, _Pairs] = {}
    left_out: dict[str, LeftOut] = {}
    for task, category in categories_of(scores).items():
        new, old = by_sample.get((system, task), {}), by_sample.get((base, task), {})
        pair = _pair(new, old)
        if len(pair.new):
            pairs[task] = pair
            per_task[task] = _task_gain(category, pair)
        reason = _reason(system, base, new, old, per_task.get(task))
        if reason:
            left_out[task] = LeftOut(reason, *_shown(per_task.get(task), new, old))
    return per_task, pairs, left_out


def _pair(new: Mapping[str, float], base: Mapping[str, float]) -> _Pairs:
    common = [sample for sample in new if sample in base]
    unpaired = len(new.keys() ^ base.keys())
    return _Pairs(np.array([new[s] for s in common]), np.array([base[s] for s in common]), unpaired)


def _task_gain(category: str, pair: _Pairs) -> TaskGain:
    new, base = float(pair.new.mean()), float(pair.base.mean())
    gain = (new - base) / base if base > ZERO else None
    return TaskGain(category, new, base, gain, len(pair.new), pair.num_unpaired)


def _reason(
    system: str,
    base: str,
    new: Mapping[str, float],
    old: Mapping[str, float],
    task: TaskGain | None,
) -> str:
    if task is None:
        if new and old:
            return "no sample that both scored"
        return f"no score of {' and '.join(n for n, s in ((system, new), (base, old)) if not s)}"
    if task.gain is not None:
        return ""
    return "base is zero" if abs(task.base) <= ZERO else "base is negative"


def _shown(
    task: TaskGain | None, new: Mapping[str, float], base: Mapping[str, float]
) -> tuple[float | None, float | None]:
    if task is not None:
        return task.new, task.base
    return tuple(float(np.mean(list(s.values()))) if s else None for s in (new, base))  # type: ignore[return-value]


def _average(tasks: Iterable[TaskGain]) -> float | None:
    gains = [t.gain for t in tasks if t.gain is not None]
    return float(np.mean(gains)) if gains else None


def _gain_of_mean(tasks: list[TaskGain]) -> float | None:
    base = float(np.mean([t.base for t in tasks])) if tasks else 0.0
    return float(np.mean([t.new for t in tasks])) / base - 1 if base > ZERO else None


def _per_category(per_task: Mapping[str, TaskGain]) -> dict[str, CategoryGain]:
    groups: dict[str, list[TaskGain]] = {}
    for task in per_task.values():
        groups.setdefault(task.category, []).append(task)
    return {
        category: CategoryGain(
            num_tasks=len(tasks),
            new=float(np.mean([t.new for t in tasks])),
            base=float(np.mean([t.base for t in tasks])),
            average=_average(tasks),
            gain_of_mean=_gain_of_mean(tasks),
        )
        for category, tasks in sorted(groups.items())
    }


def _average_interval(
    pairs: list[_Pairs], num: int, rng: np.random.Generator
) -> tuple[float, float] | None:
    if len(pairs) < 2 or num < 1:
        return None
    relative = [((p.new - p.base) / p.base.mean())[:, None] for p in pairs]
    return percentile_interval(resampled_means(relative, num, rng)[:, 0])


def _mean_interval(
    pairs: list[_Pairs], num: int, rng: np.random.Generator
) -> tuple[float, float] | None:
    if len(pairs) < 2 or num < 1:
        return None
    means = resampled_means([np.stack([p.new, p.base], axis=1) for p in pairs], num, rng)
    if (means[:, 1] <= ZERO).any():
        return None
    return percentile_interval(means[:, 0] / means[:, 1] - 1)
