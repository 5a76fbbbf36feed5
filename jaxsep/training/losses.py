"""Losses between estimates and targets, one number per example and source; finite, with finite gradients, on silence.

Pure and differentiable. Which of them a run uses, and on what, is in objective.py; scores for papers are in
`jaxsep.metrics`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsep.dsp.stft import STFTConfig, stft
from jaxsep.metrics.log_wmse import WEIGHTING_LENGTH, WEIGHTING_RATE, hearing_response
from jaxsep.typing import Waveform

PerSource = Float[Array, "batch source"]
BatchedSources = Float[Array, "batch source time channel"]

# Energy added to both sums of a ratio, as in `jaxsep.metrics.sdr`: bounds it, and its gradient, on silence.
SDR_EPS = 1e-7
# The floor of a power spectrum, as in auraloss: -80 dB below a full-scale bin of 1, and a finite gradient at zero.
POWER_FLOOR = 1e-8
# Frame lengths of the multi-resolution loss in samples, of the order of 10 to 50 ms, with hops of a quarter.
RESOLUTIONS = (512, 1024, 2048)
# Of logWMSE: its scale, what it adds before the logarithm, and the smallest mean square it divides by.
_LOG_WMSE_SCALE, _LOG_WMSE_EPS, _LOG_WMSE_FLOOR = 4.0, 1e-8, 1e-16


def l1(estimates: Float[Array, "batch source *values"], targets: Float[Array, "batch source *values"]) -> PerSource:
    """Mean absolute error; on magnitudes, Spleeter's loss."""
    return jnp.abs(estimates - targets).mean(axis=tuple(range(2, targets.ndim)))


def l2(estimates: Float[Array, "batch source *values"], targets: Float[Array, "batch source *values"]) -> PerSource:
    """Mean squared error."""
    return jnp.square(estimates - targets).mean(axis=tuple(range(2, targets.ndim)))


def negative_sdr(estimates: BatchedSources, targets: BatchedSources, *, eps: float = SDR_EPS) -> PerSource:
    """Minus `jaxsep.metrics.sdr.global_sdr` of each example, in dB.

    Args:
        estimates: What the model gives.
        targets: The true sources.
        eps: Energy added to both sums. A silent target then asks for a silent estimate, with a bounded gradient.
    """
    return _decibels(_energy(estimates - targets) + eps) - _decibels(_energy(targets) + eps)


def negative_si_sdr(estimates: BatchedSources, targets: BatchedSources, *, eps: float = SDR_EPS) -> PerSource:
    """Minus the scale-invariant SDR of each example, in dB (Le Roux et al., ICASSP 2019).

    One gain for all channels; no mean is subtracted.

    Args:
        estimates: What the model gives.
        targets: The true sources.
        eps: Energy added to all sums. A silent target is no direction to project on; its loss only asks for a quiet
            estimate.
    """
    gain = (estimates * targets).sum(axis=(-2, -1), keepdims=True) / (_energy(targets) + eps)[..., None, None]
    projection = gain * targets
    return _decibels(_energy(projection - estimates) + eps) - _decibels(_energy(projection) + eps)


def multi_resolution_stft(
    estimates: BatchedSources, targets: BatchedSources, *, resolutions: tuple[int, ...] = RESOLUTIONS
) -> PerSource:
    """Spectral convergence plus the L1 of log magnitudes, averaged over resolutions (Yamamoto et al., ICASSP 2020).

    Args:
        estimates: What the model gives; longer than half the longest frame.
        targets: The true sources.
        resolutions: Frame lengths in samples; hops are a quarter, windows Hann, frames centred, as
            `auraloss.freq.MultiResolutionSTFTLoss` computes it for such hops.
    """
    total = jnp.zeros(targets.shape[:2], targets.dtype)
    for n_fft in resolutions:
        transform = STFTConfig(n_fft=n_fft, hop_length=n_fft // 4, convention="torch")
        estimated, true = (_floored_magnitude(waveforms, transform) for waveforms in (estimates, targets))
        distance = jnp.sqrt(jnp.square(true - estimated).sum(axis=(-3, -2)) + POWER_FLOOR)
        convergence = (distance / jnp.sqrt(jnp.square(true).sum(axis=(-3, -2)))).mean(axis=-1)
        total += convergence + jnp.abs(jnp.log(estimated) - jnp.log(true)).mean(axis=(-3, -2, -1))
    return total / len(resolutions)


def log_wmse(estimates: BatchedSources, targets: BatchedSources, mixture: Waveform, *, sample_rate: int) -> PerSource:
    """The logarithm of the mean squared error, weighted by the ear's sensitivity and relative to the mixture.

    Minus logWMSE (Nomono, log-wmse-audio-quality; as a loss in torch-log-wmse): 4 ln(E(error) / E(mixture) + 1e-8) with
    E the mean square behind the weighting filter, averaged over channels. Defined for silent targets. The energies are
    computed in the frequency domain from the filter's squared response.

    Args:
        estimates: What the model gives.
        targets: The true sources.
        mixture: What was separated, (batch, time, channel).
        sample_rate: Sample rate in Hz.
    """
    length = targets.shape[-2]
    errors = _weighted_energy(estimates - targets, sample_rate) / length
    scale = jnp.maximum(_weighted_energy(mixture, sample_rate) / length, _LOG_WMSE_FLOOR)
    return (_LOG_WMSE_SCALE * jnp.log(errors / scale[:, None] + _LOG_WMSE_EPS)).mean(axis=-1)


def _energy(waveforms: BatchedSources) -> PerSource:
    return jnp.square(waveforms).sum(axis=(-2, -1))


def _decibels(energies: PerSource) -> PerSource:
    return 10 / np.log(10) * jnp.log(energies)


def _floored_magnitude(
    waveforms: BatchedSources, transform: STFTConfig
) -> Float[Array, "batch source frame freq channel"]:
    spectrum = stft(waveforms, transform)
    return jnp.sqrt(jnp.maximum(jnp.square(spectrum.real) + jnp.square(spectrum.imag), POWER_FLOOR))


def _weighted_energy(
    waveforms: Float[Array, "*batch time channel"], sample_rate: int
) -> Float[Array, "*batch channel"]:
    """By Parseval: what the filtered signal's squares sum to, its tail included, without filtering."""
    # Room for the tail of the filter, whose length at other rates is its duration.
    tail = -(-WEIGHTING_LENGTH * sample_rate // WEIGHTING_RATE)
    size = -(-(waveforms.shape[-2] + tail) // 4096) * 4096
    spectrum = jnp.fft.rfft(waveforms, n=size, axis=-2)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    weights = hearing_response(np.arange(size // 2 + 1) * (sample_rate / size)) ** 2 * (2 / size)
    weights[[0, -1]] /= 2  # the only bins that have no mirror image
    return (power * jnp.asarray(weights, power.dtype).reshape((1,) * (power.ndim - 2) + (-1, 1))).sum(axis=-2)
