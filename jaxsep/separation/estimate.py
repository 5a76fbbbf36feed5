"""From a mixture to estimates of its sources, for any model: the transform, masks and Wiener filter around a network.

Pure functions of (variables, arrays). `estimate_sources` takes whole tracks and is differentiable; `estimate_chunks` is
what `Separator` compiles and runs in a moving window; filtered.py holds the Wiener filter's passes over chunks.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Inexact

from jaxsep.dsp.masks import MaskConfig, apply_masks, direct_masks, extend_masks, ratio_masks
from jaxsep.dsp.overlap_add import overlap_add, split_into_chunks
from jaxsep.dsp.stft import STFTConfig, analyse, istft, stft, synthesise
from jaxsep.dsp.wiener import WienerConfig, wiener_filter
from jaxsep.errors import SeparationError
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import SourceWaveform, Spectrogram, Variables, Waveform

Chunks = Float[Array, "chunk time channel"]


class ChunkEstimates(NamedTuple):
    """What one call of the compiled function gives.

    Attributes:
        waveforms: Estimates (chunk, source, time, channel), to be overlap-added; of a network that needs context,
            shorter than the chunks.
        finite: Whether each chunk's estimates are all finite.
    """

    waveforms: Float[Array, "chunk source out_time channel"]
    finite: Bool[Array, " chunk"]


def estimate_sources(
    variables: Variables,
    mixture: Waveform,
    *,
    model: nn.Module,
    spec: ModelSpec,
    wiener: WienerConfig | None = None,
) -> SourceWaveform:
    """Separates whole waveforms in one piece.

    Memory grows with the length; `Separator` gives the same samples in a moving window.

    Args:
        variables: The model's variables.
        mixture: Waveforms (*batch, time, channel) at the model's sample rate, with the model's channels.
        model: The network, as `FAMILIES[spec.family].module(spec.config)`.
        spec: What the weights belong to.
        wiener: Replaces the ratio masks by the multichannel Wiener filter, for networks on magnitudes.

    Returns:
        Waveforms (*batch, source, time, channel), sources in the order of `spec.stems`.

    Raises:
        SeparationError: If the mixture does not have the model's channels, or a network on waveforms is to be filtered.
    """
    length = mixture.shape[-2]
    if mixture.shape[-1] != spec.channels:
        raise SeparationError(f"The mixture has {mixture.shape[-1]} channels but '{spec.name}' takes {spec.channels}.")
    if spec.stft is None and wiener is None:
        chunks = split_into_chunks(mixture, spec.chunking)
        estimates = model.apply(variables, chunks, train=False)
        return overlap_add(jnp.moveaxis(estimates, -3, -4), spec.chunking, length=length)
    transform, masks = magnitude_domain(spec)
    spectrogram = stft(rotated(mixture, spec), transform)
    magnitudes = estimate_magnitudes(variables, spectrogram, model=model, spec=spec)
    if wiener is None:
        sources = masked(magnitudes, spectrogram, masks)
    else:
        sources = wiener_filter(all_bins(magnitudes, transform), spectrogram, config=wiener)
    return rotated(istft(all_bins(sources, transform), transform, length=length), spec)


def estimate_magnitudes(
    variables: Variables, spectrogram: Spectrogram, *, model: nn.Module, spec: ModelSpec
) -> Float[Array, "*batch source frame model_freq channel"]:
    """Runs a network on magnitudes over a spectrogram of any number of frames.

    Frames are taken in segments of the length that the model was made for; the last one is filled with zeros, of which
    nothing reaches the result.

    Args:
        variables: The model's variables.
        spectrogram: Spectrograms (*batch, frame, freq, channel) with all bins of the model's transform, of the channels
            that it sees (`rotated`).
        model: The network.
        spec: What the weights belong to.

    Returns:
        Magnitudes of the sources in the model's bins, with as many frames as came in.

    Raises:
        SeparationError: If the bins or channels are not the model's, or (outside of jit) if a value is not finite.
    """
    transform, _ = magnitude_domain(spec)
    *batch, frames, bins, channels = spectrogram.shape
    if (bins, channels) != (transform.bins, spec.channels):
        raise SeparationError(
            f"The spectrogram has {bins} bins and {channels} channels "
            f"but '{spec.name}' takes {transform.bins} and {spec.channels}."
        )
    if not isinstance(spectrogram, jax.core.Tracer) and not bool(jnp.isfinite(spectrogram).all()):
        raise SeparationError("The spectrogram holds values that are not finite; separate finite audio.")
    segment = spec.chunking.chunk_hop // transform.hop_length
    segments = -(-frames // segment)
    magnitude = jnp.abs(spectrogram[..., : spec.bins, :])
    magnitude = jnp.pad(magnitude, [(0, 0)] * len(batch) + [(0, segments * segment - frames), (0, 0), (0, 0)])
    magnitude = magnitude.reshape(*batch, segments, segment, *magnitude.shape[-2:])
    sources = jnp.moveaxis(model.apply(variables, magnitude, train=False), -4, -5)
    return sources.reshape(*sources.shape[:-4], segments * segment, *sources.shape[-2:])[..., :frames, :, :]


def estimate_chunks(
    variables: Variables, chunks: Chunks, *, model: nn.Module, spec: ModelSpec, sources: tuple[int, ...]
) -> ChunkEstimates:
    """Separates chunks of `spec.chunking.chunk_length` samples, each by itself.

    Args:
        variables: The model's variables.
        chunks: Chunks (chunk, time, channel).
        model: The network.
        spec: What the weights belong to.
        sources: Which sources to return. A network on magnitudes runs for all, since each mask needs all magnitudes;
            their masks and inverse transforms are computed for these alone.
    """
    if spec.stft is None:
        waveforms = select(model.apply(variables, chunks, train=False), sources)
        return ChunkEstimates(waveforms, all_finite(waveforms))
    transform, masks = magnitude_domain(spec)
    spectrogram = analyse(rotated(chunks, spec), transform)
    magnitudes = model.apply(variables, jnp.abs(spectrogram[..., : spec.bins, :]), train=False)
    waveforms = synthesise(all_bins(masked(magnitudes, spectrogram, masks, sources), transform), transform)
    waveforms = rotated(waveforms, spec)
    return ChunkEstimates(waveforms, all_finite(waveforms))


def magnitude_domain(spec: ModelSpec) -> tuple[STFTConfig, MaskConfig]:
    """Returns the transform and masks around a network on magnitudes.

    Raises:
        SeparationError: If the model works on waveforms.
    """
    if spec.stft is None or spec.masks is None:
        raise SeparationError(f"'{spec.name}' works on waveforms: it has no magnitudes, masks or Wiener filter.")
    return spec.stft, spec.masks


def rotated(audio: Float[Array, "*batch time channel"], spec: ModelSpec) -> Float[Array, "*batch time channel"]:
    """Returns the channels that a model's network sees; of those that it gives, the channels that are heard.

    To the middle and the sides of a stereo signal it is the same rotation, its own inverse, that leads there and back.
    """
    if spec.stereo == "left_right":
        return audio
    left, right = audio[..., 0], audio[..., 1]
    return jnp.stack([left + right, left - right], axis=-1) * 0.5**0.5


def masked(
    magnitudes: Float[Array, "*batch source frame model_freq channel"],
    spectrogram: Spectrogram,
    masks: MaskConfig,
    sources: tuple[int, ...] | None = None,
) -> Complex[Array, "*batch chosen frame masked_freq channel"]:
    """Applies the masks that magnitudes make to the mixture and returns the selected sources.

    Where masks are zero above the model's bandwidth, only the bins below it are returned.
    """
    if masks.kind == "direct":
        mixture = jnp.abs(spectrogram[..., : magnitudes.shape[-2], :])
        factors = direct_masks(magnitudes, mixture, sharpening=masks.sharpening)
    else:
        factors = ratio_masks(magnitudes, exponent=masks.exponent, eps=masks.eps)
    if sources is not None:
        factors = select(factors, sources)
    if masks.extension != "zeros":
        factors = extend_masks(factors, bins=spectrogram.shape[-2], extension=masks.extension)
    return apply_masks(factors, spectrogram[..., : factors.shape[-2], :])


def all_bins(
    sources: Inexact[Array, "*batch source frame freq channel"], transform: STFTConfig
) -> Inexact[Array, "*batch source frame all_freq channel"]:
    """Fills the bins above a model's bandwidth with zeros."""
    missing = transform.bins - sources.shape[-2]
    return jnp.pad(sources, [(0, 0)] * (sources.ndim - 2) + [(0, missing), (0, 0)])


def select(
    estimates: Inexact[Array, "chunk source ..."], sources: tuple[int, ...]
) -> Inexact[Array, "chunk chosen ..."]:
    """Returns those sources; nothing is computed where they are all."""
    return estimates if sources == tuple(range(estimates.shape[1])) else estimates[:, list(sources)]


def all_finite(estimates: Inexact[Array, "chunk ..."]) -> Bool[Array, " chunk"]:
    """Returns for each chunk whether all its values are finite."""
    return jnp.isfinite(estimates).all(axis=tuple(range(1, estimates.ndim)))


def describe_not_finite(index: int, spec: ModelSpec) -> str:
    """Returns the message for a chunk that came out with NaN or infinite samples.

    Args:
        index: Of the chunk.
        spec: Of the model.
    """
    start = index * spec.chunking.chunk_hop - spec.chunking.lead
    end = start + spec.chunking.chunk_length
    return (
        f"'{spec.name}' gave samples that are not finite between {max(start, 0) / spec.sample_rate:.1f} s and "
        f"{end / spec.sample_rate:.1f} s; no stem of this track can be trusted."
    )
