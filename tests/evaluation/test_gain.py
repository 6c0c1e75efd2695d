"""Relative gain against a slow oracle, and what must not be divided by."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from moe_tasks.errors import UserError
from moe_tasks.evaluation.gain import gain_json, gains_from_json, relative_gain
from moe_tasks.evaluation.scores import Score


def row(system: str, task: str, score: object, sample: str = "13", category: str = "c") -> dict:
    return {
        "system": system,
        "task": task,
        "category": category,
        "sample": sample,
        "split": "test",
        "metric": "EM",
        "score": score,
    }


def table(scores: dict[str, tuple[object, object]]) -> list[dict]:
    """Rows of systems moe and multitask from task -> (new, base)."""
    return [
        row(system, task, score)
        for task, pair in scores.items()
        for system, score in zip(("moe", "multitask"), pair, strict=True)
    ]


def random_rows(seed: int, num_tasks: int = 12, num_samples: int = 3) -> list[dict]:
    rng = random.Random(seed)
    rows = []
    for task in range(num_tasks):
        level = rng.uniform(0.2, 0.9)
        for sample in range(rng.randint(1, num_samples)):
            for system, extra in (("moe", 0.05), ("multitask", 0.0)):
                score = max(0.01, level + extra + rng.gauss(0, 0.1))
                rows.append(row(system, f"t{task}", score, str(sample), f"c{task % 3}"))
    rng.shuffle(rows)
    return rows


def oracle_means(rows: list[dict], system: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for r in rows:
        if r["system"] == system:
            values.setdefault(r["task"], []).append(r["score"])
    return {task: math.fsum(v) / len(v) for task, v in values.items()}


@pytest.mark.parametrize("seed", range(20))
def test_equals_slow_oracle(seed: int) -> None:
    rows = random_rows(seed)
    gain = relative_gain(rows, "moe", "multitask", num_bootstrap=50)
    new, base = oracle_means(rows, "moe"), oracle_means(rows, "multitask")
    each = {task: (new[task] - base[task]) / base[task] for task in new}
    assert gain.average == pytest.approx(math.fsum(each.values()) / len(each), abs=1e-12)
    assert {t: g.gain for t, g in gain.per_task.items()} == pytest.approx(each, abs=1e-12)
    ratio = math.fsum(new.values()) / math.fsum(base.values()) - 1
    assert gain.gain_of_mean == pytest.approx(ratio, abs=1e-12)
    assert (gain.num_up, gain.num_down) == (
        sum(new[t] > base[t] for t in new),
        sum(new[t] < base[t] for t in new),
    )
    assert sum(c.num_tasks for c in gain.per_category.values()) == gain.num_tasks == len(each)
    for name, category in gain.per_category.items():
        tasks = [t for t in new if f"c{int(t[1:]) % 3}" == name]
        assert category.new == pytest.approx(np.mean([new[t] for t in tasks]))
        assert category.average == pytest.approx(np.mean([each[t] for t in tasks]))


def slow_bootstrap(rows: list[dict], num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ARG and gain of the mean in resamples of tasks, then of samples; one at a time."""
    rng = random.Random(seed)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for r in rows:
        scores.setdefault(r["task"], {}).setdefault(r["sample"], {})[r["system"]] = r["score"]
    bases = oracle_means(rows, "multitask")
    averages, ratios = [], []
    for _ in range(num):
        relative, new, base = [], [], []
        for task in rng.choices(list(scores), k=len(scores)):
            drawn = rng.choices(list(scores[task].values()), k=len(scores[task]))
            new.append(sum(d["moe"] for d in drawn) / len(drawn))
            base.append(sum(d["multitask"] for d in drawn) / len(drawn))
            relative.append((new[-1] - base[-1]) / bases[task])
        averages.append(sum(relative) / len(relative))
        ratios.append(sum(new) / sum(base) - 1)
    return np.percentile(averages, [2.5, 97.5]), np.percentile(ratios, [2.5, 97.5])


def test_intervals_equal_slow_bootstrap() -> None:
    rows = random_rows(3, num_tasks=15, num_samples=4)
    gain = relative_gain(rows, "moe", "multitask", num_bootstrap=20_000)
    average, ratio = slow_bootstrap(rows, 5_000, seed=1)
    width = average[1] - average[0]
    assert gain.interval == pytest.approx(average, abs=0.05 * width)
    assert gain.gain_of_mean_interval == pytest.approx(ratio, abs=0.05 * (ratio[1] - ratio[0]))


def test_interval_covers_the_true_gain() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        scores = {
            f"t{t}": (0.5 * (1 + g), 0.5) for t, g in enumerate(rng.normal(0.1, 0.2, size=25))
        }
        gain = relative_gain(table(scores), "moe", "multitask", num_bootstrap=400, seed=trial)
        assert gain.interval is not None
        covered += gain.interval[0] <= 0.1 <= gain.interval[1]
    assert 0.88 <= covered / 200 <= 0.99


def test_bases_that_cannot_be_divided_by_are_listed() -> None:
    scores = {
        "good": (0.6, 0.5),
        "also": (0.4, 0.5),
        "zero": (0.3, 0.0),
        "negative": (0.2, -0.1),
        "no base": (0.2, ""),
        "no new": (None, 0.4),
        "neither": (float("nan"), ""),
    }
    gain = relative_gain(table(scores), "moe", "multitask", num_bootstrap=100)
    assert gain.average == pytest.approx(0.0, abs=1e-12)
    assert (gain.num_tasks, gain.num_left_out) == (2, 5)
    assert {t: (o.reason, o.new, o.base) for t, o in gain.left_out.items()} == {
        "zero": ("base is zero", 0.3, 0.0),
        "negative": ("base is negative", 0.2, -0.1),
        "no base": ("no score of multitask", 0.2, None),
        "no new": ("no score of moe", None, 0.4),
        "neither": ("no score of moe and multitask", None, None),
    }
    assert gain.gain_of_mean == pytest.approx((0.6 + 0.4 + 0.3 + 0.2) / (0.5 + 0.5 - 0.1) - 1)
    assert (gain.num_up, gain.num_down, gain.num_equal) == (3, 1, 0)


def test_only_zero_bases() -> None:
    gain = relative_gain(table({"a": (0.1, 0.0), "b": (0.0, 0.0)}), "moe", "multitask")
    assert gain.average is gain.interval is gain.gain_of_mean is gain.gain_of_mean_interval is None
    assert (gain.num_tasks, gain.num_left_out, gain.num_up, gain.num_equal) == (0, 2, 1, 1)


def test_task_of_another_system_only_is_listed() -> None:
    rows = [*table({"a": (0.5, 0.4)}), row("direct", "b", 0.2)]
    assert list(relative_gain(rows, "moe", "multitask").left_out) == ["b"]


def test_zero_base_of_one_sample_is_not_divided_by() -> None:
    rows = [row("moe", t, 0.5, s) for t in "ab" for s in "12"]
    rows += [row("multitask", t, b, s) for t in "ab" for s, b in (("1", 0.0), ("2", 0.5))]
    gain = relative_gain(rows, "moe", "multitask")
    assert gain.average == pytest.approx(1.0)
    assert gain.interval == pytest.approx((0.0, 2.0))


def test_samples_are_paired() -> None:
    rows = [row("moe", "a", 0.6, "1"), row("moe", "a", 0.9, "2"), row("multitask", "a", 0.5, "1")]
    gain = relative_gain([*rows, *table({"b": (0.5, 0.5)})], "moe", "multitask")
    assert gain.per_task["a"].new == pytest.approx(0.6)
    assert (gain.per_task["a"].num_samples, gain.per_task["a"].num_unpaired) == (1, 1)
    rows[-1]["sample"] = "3"
    gain = relative_gain(rows, "moe", "multitask")
    assert gain.left_out["a"].reason == "no sample that both scored"


def test_one_task_has_no_interval() -> None:
    gain = relative_gain(table({"a": (0.6, 0.5)}), "moe", "multitask")
    assert gain.average == pytest.approx(0.2)
    assert gain.interval is gain.gain_of_mean_interval is None


def test_same_seed_same_interval_and_dev_is_ignored() -> None:
    rows = random_rows(5)
    dev = [{**r, "split": "dev", "score": 0.0} for r in rows]
    first = relative_gain(rows, "moe", "multitask", seed=7)
    assert first == relative_gain([*dev, *rows], "moe", "multitask", seed=7)
    assert first.interval != relative_gain(rows, "moe", "multitask", seed=8).interval


def test_json_round_trip_without_nan() -> None:
    rows = [*random_rows(2), *table({"zero": (0.1, 0.0), "missing": (0.1, None)})]
    rows += [row("direct", f"t{t}", 0.3) for t in range(12)]
    gains = [relative_gain(rows, "moe", base) for base in ("multitask", "direct")]
    text = json.dumps(gain_json(gains), allow_nan=False)
    assert list(json.loads(text)) == ["moe_over_multitask", "moe_over_direct"]
    assert list(gains_from_json(json.loads(text)).values()) == gains


def test_rows_as_objects() -> None:
    rows = [Score(**r) for r in random_rows(1)]
    assert relative_gain(rows, "moe", "multitask") == relative_gain(
        random_rows(1), "moe", "multitask"
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (table({"a": (0.5, 0.4)})[:1], "no test scores of system 'multitask'"),
        (table({"a": (0.5, "good")}), "score 'good' of system 'multitask' on task 'a'"),
        (table({"a": (0.5, 0.4)}) * 2, "two scores for system 'moe', task 'a'"),
        ([{"system": "moe"}], "no 'task'"),
    ],
)
def test_wrong_rows(rows: list[dict], words: str) -> None:
    with pytest.raises(UserError, match=words):
        relative_gain(rows, "moe", "multitask")


def test_unknown_system_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'multitask'"):
        relative_gain(table({"a": (0.5, 0.4)}), "moe", "multitsk")
