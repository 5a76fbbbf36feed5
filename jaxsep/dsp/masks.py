"""Masks: from source magnitudes to masks, above the model's bandwidth, and onto the mixture; and mixture consistency.

Pure, jit-able, differentiable, vmappable. No transforms and no networks.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import pydantic
from jaxtyping import Array, Float

from jaxsep.config import Config
from jaxsep.dsp.stft import in_single_precision
from jaxsep.typing import Magnitude, Masks, SourceMagnitude, SourceSpectrogram, SourceWaveform, Spectrogram, Waveform

Extension = Literal["zeros", "average"]
MaskKind = Literal["ratio", "direct"]


class MaskConfig(Config):
    """How source magnitudes become masks.

    Attributes:
        kind: 'ratio' for each source's share of all sources, see `ratio_masks`; 'direct' for its share of the mixture,
            see `direct_masks`, which is a network's own mask where that is what it multiplies the mixture with.
        exponent: For 'ratio': magnitudes are raised to it before their ratio is taken; 2 makes a Wiener-like mask, 1 an
            amplitude ratio.
        sharpening: For 'direct': the power of the masks with which a track is separated. What is mostly other sources
            is then left out further: better SIR for more artefacts. A loss sees the masks themselves.
        eps: For 'ratio': keeps silence finite. Each of N sources has eps / N more, so that the masks still sum to one.
        extension: What masks are above the model's bandwidth; see `extend_masks`.
    """

    kind: MaskKind = "ratio"
    exponent: float = pydantic.Field(default=2.0, gt=0)
    sharpening: float = pydantic.Field(default=1.0, gt=0)
    eps: float = pydantic.Field(default=1e-10, gt=0)
    extension: Extension = "zeros"


def ratio_masks(magnitudes: SourceMagnitude, *, exponent: float = 2.0, eps: float = 1e-10) -> Masks:
    """Each source's share of all sources, as Spleeter's `_build_masks` computes it.

    Args:
        magnitudes: Estimated magnitudes (*batch, source, frame, freq, channel). Half precision is computed in float32.
        exponent: Power to which magnitudes are raised.
        eps: Added to the sum, an equal part of it to each source.

    Returns:
        Masks between 0 and 1 that sum to 1 over sources, equal for all where all magnitudes are zero.
    """
    powers = _power(in_single_precision(magnitudes), exponent)
    sources = magnitudes.shape[-4]
    # A reduction over so few sources keeps XLA on CPU from fusing all this into one loop: 15 times slower.
    total = functools.reduce(jnp.add, jnp.split(powers, sources, axis=-4))
    return (powers + eps / sources) / (total + eps)


def _power(magnitudes: SourceMagnitude, exponent: float) -> SourceMagnitude:
    if exponent == 1:
        return magnitudes
    if exponent == 2:
        return jnp.square(magnitudes)
    # The derivative of a power at zero is infinite or computed through log(0): both branches stay finite this way.
    positive = magnitudes > 0
    return jnp.where(positive, jnp.where(positive, magnitudes, 1.0) ** exponent, 0.0)


def direct_masks(magnitudes: SourceMagnitude, mixture: Magnitude, *, sharpening: float = 1.0) -> Masks:
    """Each source's magnitude over the mixture's: the mixture's phase with the magnitude that was estimated.

    Args:
        magnitudes: Estimated magnitudes (*batch, source, frame, freq, channel). Half precision is computed in float32.
        mixture: Magnitude of the mixture (*batch, frame, freq, channel).
        sharpening: Power to which the masks are raised.

    Returns:
        Masks, zero where the mixture is: there is no phase to take. They sum to what the estimates make of them.
    """
    magnitudes, mixture = in_single_precision(magnitudes), in_single_precision(jnp.expand_dims(mixture, -4))
    # Both branches stay finite, and with them their derivatives.
    heard = mixture > 0
    return _power(jnp.where(heard, magnitudes / jnp.where(heard, mixture, 1.0), 0.0), sharpening)


def softmax_masks(logits: SourceMagnitude) -> Masks:
    """Softmax over sources of logits (*batch, source, frame, freq, channel), as in Spleeter's 5-stem model."""
    return jax.nn.softmax(logits, axis=-4)


def extend_masks(
    masks: Masks, *, bins: int, extension: Extension
) -> Float[Array, "*batch source frame all_freq channel"]:
    """Extends masks to the bins above the model's bandwidth, as Spleeter's `_extend_mask` does.

    Args:
        masks: Masks (*batch, source, frame, freq, channel) of the lowest frequencies.
        bins: Frequencies wanted.
        extension: 'zeros' leaves nothing above the bandwidth; 'average' repeats each frame's mean over frequency.

    Returns:
        Masks with `bins` frequencies.
    """
    missing = bins - masks.shape[-2]
    if extension == "average":
        mean = masks.mean(axis=-2, keepdims=True)
        return jnp.concatenate([masks, jnp.repeat(mean, missing, axis=-2)], axis=-2)
    return jnp.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(0, missing), (0, 0)])


def apply_masks(masks: Masks, mixture: Spectrogram) -> SourceSpectrogram:
    """Multiplies masks (*batch, source, frame, freq, channel) with the mixture (*batch, frame, freq, channel)."""
    masks, mixture = in_single_precision(masks), jnp.expand_dims(mixture, -4)
    # Real times complex: XLA's product of two complex numbers does four multiplications, and does not vectorise.
    return jax.lax.complex(masks * mixture.real, masks * mixture.imag)


def project_onto_mixture(estimates: SourceWaveform, mixture: Waveform) -> SourceWaveform:
    """Makes estimates sum to the mixture: each takes an equal part of what is missing.

    This is the orthogonal projection onto the waveforms that sum to the mixture (Wisdom et al., 'Differentiable
    Consistency Constraints for Improved Deep Speech Enhancement', ICASSP 2019, unweighted).

    Args:
        estimates: Waveforms (*batch, source, time, channel).
        mixture: Waveform (*batch, time, channel).

    Returns:
        Estimates whose sum over sources is the mixture.
    """
    missing = mixture - estimates.sum(axis=-3)
    return estimates + jnp.expand_dims(missing / estimates.shape[-3], -3)
