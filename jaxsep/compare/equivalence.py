"""Whether two frameworks are equivalent in quality: paired differences, their interval, and two tests of them.

Numbers in, numbers out. What is paired, and why, is said in study.py.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxsep.evaluation.paired import sign_flip

# Equivalence is shown where each of two one-sided tests has a p below this, and thus where the whole interval of twice
# as much beside it, of 95 %, lies within the margin.
LEVEL_P = 0.025


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """What paired differences say; everything in dB but counts and probabilities.

    Attributes:
        pairs: How many.
        mean: Of the differences.
        deviation: Their standard deviation, NaN of one pair.
        low: Lower end of the 95 % interval of the mean (Student's t).
        high: Its upper end.
        margin: What counts as no difference.
        inside: Whether `tost_p` is below 0.025, thus whether the whole interval lies within the margin: the claim of
            equivalence holds.
        tost_p: Of two one-sided t tests that the mean is outside the margin (Schuirmann, 1987): the larger of both.
        sign_flip_p: Of the two-sided test that signs are exchangeable, thus that there is no difference at all.
        sign_flip_smallest_p: The least that this test can give with so many pairs.
    """

    pairs: int
    mean: float
    deviation: float
    low: float
    high: float
    margin: float
    inside: bool
    tost_p: float
    sign_flip_p: float
    sign_flip_smallest_p: float


def equivalence(differences: Sequence[float], margin: float) -> Equivalence:
    """Tests whether paired differences are zero but for a margin.

    Args:
        differences: One for each pair, in dB; at least one. Of one pair there is no interval.
        margin: In dB, above 0.

    Raises:
        ValueError: There are no differences, or one is not finite.
    """
    from scipy import stats

    values = np.asarray(differences, float)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"Differences are to be finite numbers, at least one; got {list(differences)}.")
    count, mean = len(values), float(values.mean())
    low, high, deviation, tost_p = -math.inf, math.inf, math.nan, 1.0
    if count > 1:
        deviation = float(values.std(ddof=1))
        error = deviation / math.sqrt(count)
        reach = float(stats.t.ppf(1 - LEVEL_P, count - 1)) * error
        low, high = mean - reach, mean + reach
        if error:
            below, above = ((mean + margin) / error, (margin - mean) / error)
            tost_p = float(stats.t.sf(min(below, above), count - 1))
        else:
            tost_p = 0.0 if abs(mean) < margin else 1.0
    flipped, smallest = sign_flip(values)
    return Equivalence(count, mean, deviation, low, high, margin, tost_p < LEVEL_P, tost_p, flipped, smallest)
