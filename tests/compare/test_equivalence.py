"""Paired differences: against scipy's own tests and against counting by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxsep.compare.equivalence import equivalence


def test_the_interval_and_both_one_sided_tests_are_scipys():
    differences = np.random.default_rng(3).normal(0.02, 0.05, 8)
    found = equivalence(differences.tolist(), 0.1)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    below = stats.ttest_1samp(differences, -0.1, alternative="greater").pvalue
    above = stats.ttest_1samp(differences, 0.1, alternative="less").pvalue
    assert found.tost_p == pytest.approx(max(below, above), rel=1e-9)
    assert found.inside and found.pairs == 8


@pytest.mark.parametrize("seed", range(40))
def test_the_verdict_is_that_of_the_interval_and_of_the_p_alike(seed):
    """Margins about the end of the interval: p is 0.025 just where the interval of 95 % ends."""
    differences = np.random.default_rng(seed).normal(0.02, 0.05, 6).tolist()
    margin = max(abs(end) for end in (equivalence(differences, 1.0).low, equivalence(differences, 1.0).high))
    for factor, is_shown in ((1.01, True), (0.99, False)):
        found = equivalence(differences, factor * margin)
        assert found.inside is is_shown
        assert (found.tost_p < 0.025) is is_shown
        assert (-found.margin < found.low and found.high < found.margin) is is_shown


def test_the_sign_flip_test_is_scipys_permutation_test():
    differences = [0.3, -0.1, 0.25, 0.4, 0.05, 0.2]
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    found = equivalence(differences, 0.1)
    assert found.sign_flip_p == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.sign_flip_smallest_p == 2 / 64


def test_of_differences_of_one_sign_none_is_more_extreme_but_its_mirror_image():
    found = equivalence([0.1, 0.2, 0.3], 0.1)
    assert found.sign_flip_p == found.sign_flip_smallest_p == 2 / 8
    assert not found.inside


def test_many_pairs_are_drawn_and_none_is_impossible():
    found = equivalence([1.0] * 40, 0.1)
    assert 0 < found.sign_flip_smallest_p <= found.sign_flip_p < 1e-3


@pytest.mark.parametrize(("value", "inside"), [(0.0, True), (0.2, False)])
def test_differences_without_spread_decide_by_themselves(value, inside):
    found = equivalence([value] * 4, 0.1)
    assert found.inside is inside and found.tost_p == (0.0 if inside else 1.0)


def test_one_pair_has_no_interval():
    found = equivalence([0.01], 0.1)
    assert (found.low, found.high, found.inside, found.tost_p) == (-math.inf, math.inf, False, 1.0)


@pytest.mark.parametrize("differences", [[], [math.nan, 0.1]])
def test_what_is_no_difference_is_refused(differences):
    with pytest.raises(ValueError, match="finite"):
        equivalence(differences, 0.1)
