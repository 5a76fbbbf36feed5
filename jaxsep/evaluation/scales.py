"""How each metric is read: its name in tables, its unit, which end is better, and by which average systems compare."""

from dataclasses import dataclass

# Beyond this, a ratio in dB is the rounding of the arithmetic.
LARGEST_DB = 150.0
# SiSEC 2018's average, for metrics by frame, and that of the Music Demixing Challenges, for metrics of whole tracks.
SISEC_AVERAGE, CHALLENGE_AVERAGE = "median_of_medians", "mean_of_means"


@dataclass(frozen=True)
class Scale:
    """How a metric is read.

    Attributes:
        in_decibels: Whether it is a ratio in dB, of which an exact estimate has no finite one; other metrics have no
            unit.
        higher_is_better: Whether higher scores are better.
        average: The average over tracks by which systems are compared, a field of `Aggregate`.
        improves: Whether the difference from the mixture's score says something. Of artifacts it does not: the mixture
            has none, and its ratio is the rounding.
    """

    in_decibels: bool = True
    higher_is_better: bool = True
    average: str = CHALLENGE_AVERAGE
    improves: bool = True


_FRAME_SCALES = {name: Scale(average=SISEC_AVERAGE, improves=name != "SAR") for name in ("SDR", "ISR", "SIR", "SAR")}
SCALES = {
    **_FRAME_SCALES,
    **{f"museval {name}": scale for name, scale in _FRAME_SCALES.items()},
    "global SDR": Scale(),
    "SI-SDR": Scale(),
    "SI-SIR": Scale(),
    "SI-SAR": Scale(improves=False),
    "log-WMSE": Scale(in_decibels=False),
    "spectral distance": Scale(in_decibels=False, higher_is_better=False),
    "bleedless": Scale(in_decibels=False),
    "fullness": Scale(in_decibels=False),
}


def scale_of(metric: str, lower_is_better: frozenset[str] = frozenset()) -> Scale:
    """Returns the scale of a metric.

    Args:
        metric: Its name in tables.
        lower_is_better: Names of metrics of other tools whose lower end is better.
    """
    return SCALES.get(metric) or Scale(in_decibels=False, higher_is_better=metric not in lower_is_better)


def in_words(value: float, *, in_decibels: bool, is_exact: bool = False) -> str:
    """Returns a score with two decimals, a dash where there is none.

    Args:
        value: The score; NaN where there is none.
        in_decibels: Whether it is a ratio, whose rounding is not shown.
        is_exact: Whether the estimate is the true source, sample by sample.
    """
    if value != value:
        return "-"
    if in_decibels and is_exact:
        return "exact"
    if in_decibels and abs(value) >= LARGEST_DB:
        return f"{'>' if value > 0 else '<'} {'' if value > 0 else '-'}{LARGEST_DB:.0f}"
    return f"{value:.2f}"
