"""Scores of a whole track that are none of BSS Eval's: by sums over it, and by its waveforms, a stem at a time.

Arrays in, numbers out; which metrics there are is said in `NAMES`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from jaxsep.errors import AudioError
from jaxsep.metrics.log_wmse import log_wmse
from jaxsep.metrics.sdr import TrackSums
from jaxsep.metrics.spectral import bleedless_and_fullness, spectral_distance

LOG_WMSE, SPECTRAL_DISTANCE, BLEEDLESS, FULLNESS = "log-wmse", "spectral-distance", "bleedless", "fullness"
_OF_SUMS: Mapping[str, Callable[[TrackSums], np.ndarray]] = {
    "sdr": TrackSums.global_sdr,
    "si-sdr": TrackSums.si_sdr,
    "si-sir": TrackSums.si_sir,
    "si-sar": TrackSums.si_sar,
}
_OF_WAVEFORMS = (LOG_WMSE, SPECTRAL_DISTANCE, BLEEDLESS, FULLNESS)
# Names on the command line, and in tables.
NAMES = {
    "sdr": "global SDR",
    "si-sdr": "SI-SDR",
    "si-sir": "SI-SIR",
    "si-sar": "SI-SAR",
    LOG_WMSE: "log-WMSE",
    SPECTRAL_DISTANCE: "spectral distance",
    BLEEDLESS: BLEEDLESS,
    FULLNESS: FULLNESS,
}
# In place of infinity, which JSON does not have; all beyond 150 dB is rounding.
_LARGEST = 1000.0

_Track = Float[np.ndarray, "time channel"]
# One of a track's waveforms, read when it is wanted.
Reader = Callable[[], _Track]


def scores_of_sums(
    metrics: Sequence[str], sums: TrackSums, stems: Sequence[str], silent: Bool[np.ndarray, " source"]
) -> dict[str, dict[str, float | None]]:
    """Returns the ratios over whole tracks by metric and stem; None where there is none.

    Args:
        metrics: Which are asked for; others than ratios are passed over.
        sums: Over the track.
        stems: The sources.
        silent: Which true sources are silent, and have no ratio.
    """
    found = {}
    for metric in (metric for metric in metrics if metric in _OF_SUMS):
        values = np.where(silent, np.nan, _OF_SUMS[metric](sums))
        found[metric] = {stem: _for_json(value) for stem, value in zip(stems, values, strict=True)}
    return found


def scores_of_waveforms(
    metrics: Sequence[str],
    waveforms: Mapping[str, tuple[Reader, Reader]],
    mixture: Reader,
    *,
    sample_rate: int,
    silent: Bool[np.ndarray, " source"],
    notes: list[str],
) -> dict[str, dict[str, float | None]]:
    """Returns the scores by metric and stem that need all of a stem at one time; None where there is none.

    Args:
        metrics: Which are asked for; others are passed over.
        waveforms: True source and estimate of each stem, of one length.
        mixture: Their mixture, of the same length.
        sample_rate: Sample rate of all waveforms in Hz.
        silent: Which true sources are silent; log-WMSE alone scores them.
        notes: What is said of scores that are missing is added here.
    """
    wanted = [metric for metric in metrics if metric in _OF_WAVEFORMS]
    found: dict[str, dict[str, float | None]] = {metric: {} for metric in wanted}
    mixed = mixture() if LOG_WMSE in wanted else None
    for (stem, readers), is_silent in zip(waveforms.items() if wanted else (), silent, strict=bool(wanted)):
        true, estimated = (reader() for reader in readers)
        if mixed is not None:
            found[LOG_WMSE][stem] = _for_json(float(log_wmse(true, estimated, mixed, sample_rate=sample_rate)))
        if is_silent:
            found |= {metric: found[metric] | {stem: None} for metric in wanted if metric != LOG_WMSE}
            continue
        if SPECTRAL_DISTANCE in wanted:
            try:
                found[SPECTRAL_DISTANCE][stem] = _for_json(spectral_distance(true, estimated))
            except AudioError as error:
                found[SPECTRAL_DISTANCE][stem] = None
                notes.append(f"Of '{stem}' {error}.")
        if BLEEDLESS in wanted or FULLNESS in wanted:
            pair = bleedless_and_fullness(true, estimated, sample_rate=sample_rate)
            for metric, value in zip((BLEEDLESS, FULLNESS), pair, strict=True):
                if metric in wanted:
                    found[metric][stem] = _for_json(value)
    return found


def _for_json(value: float) -> float | None:
    return None if math.isnan(value) else max(min(float(value), _LARGEST), -_LARGEST)
