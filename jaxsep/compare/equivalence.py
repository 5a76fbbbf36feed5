"""Whether two frameworks are equivalent in quality: paired differences, their interval, and two tests of them.

Numbers in, numbers out. What is paired, and why, is said in study.py.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

# Signs are enumerated up to so many pairs, and drawn beyond.
_ENUMERATED, _DRAWN = 16, 100_000


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
        inside: Whether the whole interval lies within the margin: the claim of equivalence holds.
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
        reach = float(stats.t.ppf(0.975, count - 1)) * error
        low, high = mean - reach, mean + reach
        if error:
            below, above = ((mean + margin) / error, (margin - mean) / error)
            tost_p = float(stats.t.sf(min(below, above), count - 1))
        else:
            tost_p = 0.0 if abs(mean) < margin else 1.0
    flipped, smallest = _sign_flip(values)
    return Equivalence(
        count, mean, deviation, low, high, margin, -margin < low and high < margin, tost_p, flipped, smallest
    )


def _sign_flip(values: np.ndarray) -> tuple[float, float]:
    """The share of all assignments of signs whose sum is as far from zero; the one that was found is among them."""
    if len(values) <= _ENUMERATED:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), (_DRAWN, len(values)))
        signs[0] = 1.0
    sums = np.abs(signs @ values)
    # Sums of other signs that are equal but for rounding count.
    share = float(np.mean(sums >= np.abs(values.sum()) * (1 - 1e-12)))
    return share, 2 / len(signs) if len(values) <= _ENUMERATED else 1 / len(signs)
