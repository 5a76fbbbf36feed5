"""logWMSE: the logarithm of the mean squared error as the ear weights it, relative to the mixture's level.

numpy in float64. The weighting filter is described by its design, from which its response follows at any rate.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxsep.errors import AudioError
from jaxsep.metrics.sdr import as_pair

# The rate at which the filters of the weighting were designed, and the length of the published impulse response.
WEIGHTING_RATE, WEIGHTING_LENGTH = 44100, 4000
_SCALE, _EPS, _FLOOR = -4.0, 1e-8, 1e-16


def log_wmse(
    references: ArrayLike, estimates: ArrayLike, mixture: ArrayLike, *, sample_rate: int
) -> Float[np.ndarray, "*source"]:
    """Scores estimates by logWMSE (Nomono, log-wmse-audio-quality; torch-log-wmse), in no unit; higher is better.

    With E the mean square behind the weighting filter, of each channel by itself:

        logWMSE = -4 ln(E(e - s) / E(mixture) + 1e-8), averaged over channels

    It is defined for silent references, and some 73.7 for exact estimates. Energies are those of the whole filtered
    signal, tails included, as in torch-log-wmse since 1.0. Other rates are resampled to 44.1 kHz by soxr, as in
    log-wmse-audio-quality.

    Args:
        references: True sources (time, channel), or (source, time, channel) for one score per source.
        estimates: What a separation gave, of the same shape.
        mixture: What was separated, (time, channel), of the same length.
        sample_rate: Sample rate of all waveforms in Hz.

    Returns:
        One score per source.

    Raises:
        AudioError: The shapes differ, nothing is there to score, or a value is not finite.
    """
    true, estimated = as_pair(references, estimates)
    mixed = np.asarray(mixture, np.float64)
    if mixed.shape != true.shape[-2:]:
        raise AudioError(
            f"the mixture has the shape {mixed.shape} and each source {true.shape[-2:]}: give (time, channel) of one "
            "length"
        )
    differences, mixed = (_at_weighting_rate(each, sample_rate) for each in (estimated - true, mixed))
    level = np.maximum(_weighted_energy(mixed) / len(mixed), _FLOOR)
    errors = _weighted_energy(differences) / len(mixed)
    return np.asarray((_SCALE * np.log(errors / level + _EPS)).mean(axis=-1))


def _at_weighting_rate(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
    if sample_rate == WEIGHTING_RATE:
        return waveforms
    import soxr

    tracks = waveforms.reshape(-1, *waveforms.shape[-2:])
    resampled = np.stack([soxr.resample(track, sample_rate, WEIGHTING_RATE) for track in tracks])
    return resampled.reshape(*waveforms.shape[:-2], *resampled.shape[1:])


def _weighted_energy(waveforms: Float[np.ndarray, "*source time channel"]) -> Float[np.ndarray, "*source channel"]:
    """By Parseval: what the filtered signal's squares sum to, its tail included, without filtering."""
    size = -(-(waveforms.shape[-2] + WEIGHTING_LENGTH) // 4096) * 4096
    weights = hearing_response(np.arange(size // 2 + 1) * (WEIGHTING_RATE / size)) ** 2 * (2 / size)
    weights[[0, -1]] /= 2  # the only bins that have no mirror image
    channels = np.moveaxis(waveforms, -1, -2)
    found = np.empty(channels.shape[:-1])
    for index in np.ndindex(found.shape):  # one at a time: spectra of whole tracks are large
        spectrum = np.fft.rfft(channels[index], n=size)
        found[index] = np.sum((np.square(spectrum.real) + np.square(spectrum.imag)) * weights)
    return found


def hearing_response(frequencies_hz: Float[np.ndarray, " freq"]) -> Float[np.ndarray, " freq"]:
    """Returns the amplitude response of logWMSE's weighting filter (after Fenton and Lee, 2017).

    A high shelf (+5 dB above 1.5 kHz), a second-order high pass at 120 Hz, a peak (+2.5 dB at 500 Hz) and a first-order
    low pass at 10 kHz applied forwards and backwards, as digital filters at 44.1 kHz; nothing above half that rate.
    """
    inside = frequencies_hz < WEIGHTING_RATE / 2
    z = np.exp(-2j * np.pi * np.where(inside, frequencies_hz, 0) / WEIGHTING_RATE)
    response = np.ones(len(frequencies_hz))
    for numerator, denominator in (
        _high_shelf(1500.0, 5.0, 2**-0.5),
        _peak(500.0, 2.5, 1.5 * 2**-0.5),
        _high_pass(120.0),
    ):
        response *= np.abs(np.polyval(numerator[::-1], z) / np.polyval(denominator[::-1], z))
    warped = np.tan(np.pi * 10_000 / WEIGHTING_RATE)
    low_pass = np.abs(warped * (1 + z) / ((1 + warped) + (warped - 1) * z))
    return np.where(inside, response * low_pass**2, 0.0)


def _high_shelf(centre_hz: float, gain_db: float, q: float) -> tuple[list[float], list[float]]:
    """Robert Bristow-Johnson's Audio EQ Cookbook."""
    amplitude, cosine, alpha = _cookbook(centre_hz, gain_db, q)
    root = 2 * np.sqrt(amplitude) * alpha
    more, less = amplitude + 1, amplitude - 1
    numerator = [
        amplitude * (more + less * cosine + root),
        -2 * amplitude * (less + more * cosine),
        amplitude * (more + less * cosine - root),
    ]
    return numerator, [more - less * cosine + root, 2 * (less - more * cosine), more - less * cosine - root]


def _peak(centre_hz: float, gain_db: float, q: float) -> tuple[list[float], list[float]]:
    amplitude, cosine, alpha = _cookbook(centre_hz, gain_db, q)
    return (
        [1 + alpha * amplitude, -2 * cosine, 1 - alpha * amplitude],
        [1 + alpha / amplitude, -2 * cosine, 1 - alpha / amplitude],
    )


def _high_pass(cutoff_hz: float) -> tuple[list[float], list[float]]:
    """Second-order Butterworth, by the bilinear transform: the cookbook's, with its Q."""
    _, cosine, alpha = _cookbook(cutoff_hz, 0.0, 2**-0.5)
    return [(1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2], [1 + alpha, -2 * cosine, 1 - alpha]


def _cookbook(frequency_hz: float, gain_db: float, q: float) -> tuple[float, float, float]:
    angle = 2 * np.pi * frequency_hz / WEIGHTING_RATE
    return 10 ** (gain_db / 40), float(np.cos(angle)), float(np.sin(angle) / (2 * q))
