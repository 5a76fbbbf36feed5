"""Paired differences: the interval of their mean by the bootstrap, two tests that there is none, Holm's correction.

Numbers in, numbers out. What is paired is said in systems.py and in `jaxsep.compare.study`.
"""

import functools
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Signs are enumerated up to so many pairs, and drawn beyond.
_ENUMERATED, _DRAWN = 16, 100_000
RESAMPLES = 9_999
LEVEL = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """What paired differences say.

    Attributes:
        pairs: Number of pairs.
        mean: Their mean.
        low: The lower end of the 95 % interval of the mean (percentile bootstrap over pairs); NaN of one pair.
        high: Its upper end.
        wilcoxon_p: The p of the Wilcoxon signed-rank test; 1 where all differences are zero, NaN without scipy.
        sign_flip_p: The p of the test that signs are exchangeable, thus that there is no difference at all.
    """

    pairs: int
    mean: float
    low: float
    high: float
    wilcoxon_p: float
    sign_flip_p: float


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Returns what paired differences say.

    Args:
        differences: One for each pair, finite; at least one.
    """
    values = np.asarray(differences, float)
    flipped, _ = sign_flip(values)
    low, high = bootstrap_interval(values)
    return PairedDifference(len(values), float(values.mean()), low, high, wilcoxon(values), flipped)


def bootstrap_interval(values: Float[np.ndarray, " pair"]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean: percentiles of the means of resampled pairs, always the same ones."""
    if len(values) < 2:
        return math.nan, math.nan
    means = _shares(len(values)) @ values
    low, high = np.percentile(means, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)


def wilcoxon(values: Float[np.ndarray, " pair"]) -> float:
    """Returns the p of the two-sided Wilcoxon signed-rank test; pairs without a difference do not count."""
    if not values.any():
        return 1.0
    try:
        from scipy import stats
    except ImportError:
        return math.nan
    with warnings.catch_warnings():
        # Of few pairs with ties the p is approximate, and scipy says so each time.
        warnings.simplefilter("ignore")
        return float(stats.wilcoxon(values).pvalue)


def sign_flip(values: Float[np.ndarray, " pair"]) -> tuple[float, float]:
    """Tests that signs are exchangeable.

    Returns:
        The share of all assignments of signs whose sum is as far from zero as the one that was found, which is among
        them; and the least that it can be with so many pairs.
    """
    signs = _signs(len(values))
    sums = np.abs(signs @ values)
    # Sums of other signs that are equal but for rounding count.
    share = float(np.mean(sums >= np.abs(values.sum()) * (1 - 1e-12)))
    return share, 2 / len(signs) if len(values) <= _ENUMERATED else 1 / len(signs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p values corrected for there being several tests (Holm, 1979); NaN stays NaN and is no test."""
    corrected = [math.nan] * len(p_values)
    tested = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    largest = 0.0
    for rank, index in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


@functools.lru_cache(maxsize=4)
def _shares(pairs: int) -> Float[np.ndarray, "resample pair"]:
    """How often each pair is drawn in each resample, over the number of pairs."""
    return np.random.default_rng(0).multinomial(pairs, np.full(pairs, 1 / pairs), RESAMPLES) / pairs


@functools.lru_cache(maxsize=4)
def _signs(pairs: int) -> Float[np.ndarray, "assignment pair"]:
    if pairs <= _ENUMERATED:
        return np.array(list(itertools.product((1.0, -1.0), repeat=pairs)))
    signs = np.random.default_rng(0).choice((1.0, -1.0), (_DRAWN, pairs))
    signs[0] = 1.0
    return signs
