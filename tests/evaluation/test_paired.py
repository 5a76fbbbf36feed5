"""Paired differences against scipy's tests, statsmodels' example of Holm's correction, and the bootstrap's own law."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxsep.evaluation.aggregates import TrackScore
from jaxsep.evaluation.paired import bootstrap_interval, holm, paired_difference, sign_flip
from jaxsep.evaluation.systems import differences


def test_tests_and_interval_are_scipys():
    values = np.random.default_rng(3).normal(0.3, 0.5, 14)
    found = paired_difference(values.tolist())
    assert found.wilcoxon_p == stats.wilcoxon(values).pvalue
    flips = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.sign_flip_p == pytest.approx(flips.pvalue, abs=1e-12)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9_999, rng=1).confidence_interval
    # Two draws of 9,999: the ends of the interval have a standard error of some hundredth of its width.
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.03 * (expected.high - expected.low))
    assert (found.pairs, found.mean) == (14, pytest.approx(values.mean()))


def test_the_bootstrap_is_the_same_each_time_and_knows_no_interval_of_one_pair():
    values = np.arange(10.0)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert all(map(math.isnan, bootstrap_interval(values[:1])))
    assert bootstrap_interval(np.full(5, 2.0)) == (pytest.approx(2.0), pytest.approx(2.0))


def test_systems_that_are_alike_do_not_differ():
    found = paired_difference([0.0] * 6)
    assert (found.mean, found.wilcoxon_p, found.sign_flip_p) == (0.0, 1.0, 1.0)


def test_holms_correction_is_that_of_the_literature():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") is 0.03 0.06 0.06 0.02
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.6, math.nan, 0.7])
    assert corrected[0] == 1.0 and math.isnan(corrected[1]) and corrected[2] == 1.0
    assert holm([]) == []


def test_few_pairs_cannot_give_a_small_p():
    assert sign_flip(np.array([1.0, 2.0, 3.0])) == (2 / 8, 2 / 8)


def test_differences_are_of_common_tracks_and_corrected_for_all_pairs_and_stems():
    rng = np.random.default_rng(0)
    scores = [
        TrackScore(system, f"{track}", stem, "SDR", value, value)
        for system, better in (("a", 0.0), ("b", 0.5), ("c", 0.2))
        for stem in ("x", "y")
        for track in range(8)
        for value in [math.nan if (system, track) == ("c", 7) else better + rng.normal(0, 0.1)]
    ]
    found = differences(scores)
    assert [(each.stem, each.first, each.second) for each in found] == [
        (stem, *pair) for stem in "xy" for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    # 'c' has no score for the last track, which then counts for no pair.
    assert {each.paired.pairs for each in found} == {7}
    of = {(score.system, score.track, score.stem): score.frames_median for score in scores}
    expected = np.mean([of["b", f"{track}", "x"] - of["a", f"{track}", "x"] for track in range(7)])
    assert found[0].paired.mean == pytest.approx(expected)
    assert [each.wilcoxon_holm for each in found] == holm([each.paired.wilcoxon_p for each in found])
    assert found[0].wilcoxon_holm == pytest.approx(min(1.0, 6 * 2 / 2**7), abs=1e-9)
