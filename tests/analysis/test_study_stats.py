"""Intervals and p-values against scipy and against hand calculation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.study_stats import holm, spread, t_test


def test_spread_equals_scipy() -> None:
    values = [7.9, 10.0, 2.1, 14.2, 2.4, 8.5]
    found = spread(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.t_interval == pytest.approx((expected.low, expected.high))
    assert (found.num_runs, found.num_positive) == (6, 6)
    boot = stats.bootstrap((values,), np.mean, method="percentile", random_state=0)
    assert found.bootstrap_interval == pytest.approx(tuple(boot.confidence_interval), abs=0.2)
    assert spread([3.0]).t_interval is spread([3.0]).bootstrap_interval is None


def test_t_test() -> None:
    # Two degrees of freedom: p = 1 - t / sqrt(t^2 + 2), here with t = 2 and t = sqrt(12).
    assert t_test([10.0, 10.0, 40.0]) == pytest.approx(1 - 2 / 6**0.5)
    assert t_test([-10.0, -20.0, -30.0]) == pytest.approx(1 - (12 / 14) ** 0.5)
    values = [7.9, -10.0, 2.1, 14.2]
    assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert t_test([1.0, 2.0]) is None
    assert (t_test([0.0] * 3), t_test([5.0] * 3)) == (1.0, 0.0)


def test_holm() -> None:
    # Sorted .01, .02, .03, .4 times 4, 3, 2, 1; then none below the one before it.
    adjusted = holm([0.03, None, 0.01, 0.4, 0.02])
    assert adjusted == pytest.approx([0.06, None, 0.04, 0.4, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([None, 0.03]) == [None, 0.03]
    assert holm([]) == []
