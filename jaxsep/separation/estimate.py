"""From a mixture to estimates of its sources, for any model: encode, apply, decode.

Pure functions of (variables, arrays). `estimate_sources` takes whole tracks and is differentiable; `estimate_chunks` is
what `Separator` compiles and runs in a moving window; passes.py holds what takes several passes over a track.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact

from jaxsep.dsp.cuts import Cut
from jaxsep.dsp.wiener import WienerConfig
from jaxsep.errors import SeparationError
from jaxsep.models.domain import Domain
from jaxsep.models.procedure import Normalise
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import SourceWaveform, Spectrogram, Variables, Waveform

Chunks = Float[Array, "chunk time channel"]
Weights = Float[Array, "chunk unit"]

# As in Demucs: tracks are shifted by less than half a second.
_LARGEST_SHIFT_SECONDS = 0.5


class ChunkEstimates(NamedTuple):
    """What one call of the compiled function gives.

    Attributes:
        waveforms: Weighted estimates (chunk, source, time, channel), to be overlap-added; of a network that needs
            context, shorter than the chunks.
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
    seed: int = 0,
) -> SourceWaveform:
    """Separates whole waveforms in one piece.

    Memory grows with the length; `Separator` gives the same samples in a moving window.

    Args:
        variables: The model's variables.
        mixture: Waveforms (*batch, time, channel) at the model's sample rate, with the model's channels.
        model: The network, as `spec.network()` gives it.
        spec: Spec of the model.
        wiener: Multichannel Wiener filter in place of that of the model's procedure, or of its masks; for networks on
            magnitudes.
        seed: What time shifts are drawn from, where the procedure has any.

    Returns:
        Waveforms (*batch, source, time, channel), sources in the order of `spec.stems`.

    Raises:
        SeparationError: If the mixture does not have the model's channels, or a network on waveforms is to be filtered.
    """
    if mixture.ndim < 2 or mixture.shape[-1] != spec.channels:
        found = f"the shape {tuple(mixture.shape)}" if mixture.ndim < 2 else f"{mixture.shape[-1]} channels"
        raise SeparationError(f"The mixture has {found} but '{spec.name}' takes {spec.channels} channels.")
    procedure = spec.procedure
    separate = partial(
        spec.domain.estimate_track,
        _over_batches(partial(model.apply, variables, train=False), spec),
        cutting=procedure.cutting,
        config=spec.network_config,
        wiener=procedure.wiener if wiener is None else wiener,
    )
    if procedure.shifts:
        separate = partial(_shifted, separate, delays(procedure.shifts, spec.sample_rate, seed))
    return separate(mixture) if procedure.normalise is None else _normalised(separate, procedure.normalise, mixture)


def delays(shifts: int, sample_rate: int, seed: int, member: int = 0) -> tuple[int, ...]:
    """Returns by how many samples a track is delayed for each time shift.

    Args:
        shifts: Number of shifts.
        sample_rate: Sample rate of the track in Hz.
        seed: What they are drawn from.
        member: Number of the model in an ensemble, each of which has shifts of its own.
    """
    largest = int(_LARGEST_SHIFT_SECONDS * sample_rate)
    drawn = np.random.default_rng((seed, member)).integers(0, largest, size=shifts, endpoint=True)
    return tuple(int(delay) for delay in drawn)


def estimate_magnitudes(
    variables: Variables, spectrogram: Spectrogram, *, model: nn.Module, spec: ModelSpec
) -> Float[Array, "*batch source frame model_freq channel"]:
    """Runs a network on magnitudes over a spectrogram of any number of frames.

    Frames are taken in segments of the length that the model was made for; the last one is filled with zeros, of which
    nothing reaches the result.

    Args:
        variables: The model's variables.
        spectrogram: Spectrograms (*batch, frame, freq, channel) with all bins of the model's transform, of the channels
            that it sees (`Magnitude.rotated`).
        model: The network.
        spec: Spec of the model.

    Returns:
        Magnitudes of the sources in the model's bins, with as many frames as came in.

    Raises:
        SeparationError: If the bins or channels are not the model's, or (outside of jit) if a value is not finite.
    """
    domain = spec.domain.magnitudes("an estimate of magnitudes")
    *_, bins, channels = spectrogram.shape
    if (bins, channels) != (domain.stft.bins, spec.channels):
        raise SeparationError(
            f"The spectrogram has {bins} bins and {channels} channels "
            f"but '{spec.name}' takes {domain.stft.bins} and {spec.channels}."
        )
    if not isinstance(spectrogram, jax.core.Tracer) and not bool(jnp.isfinite(spectrogram).all()):
        raise SeparationError("The spectrogram holds values that are not finite; separate finite audio.")
    apply = _over_batches(partial(model.apply, variables, train=False), spec)
    return domain.estimate_magnitudes(apply, spectrogram, spec.procedure.cutting, spec.network_config)


def estimate_chunks(
    variables: Variables,
    chunks: tuple[Chunks, Weights],
    *,
    model: nn.Module,
    domain: Domain,
    sources: tuple[int, ...],
) -> ChunkEstimates:
    """Separates chunks, each by itself.

    Args:
        variables: The model's variables.
        chunks: What the network sees of each chunk (chunk, time, channel), and the weights of its estimates.
        model: The network.
        domain: What it maps.
        sources: Numbers of the sources to return. A network runs for all; what comes after it is computed for these
            alone.
    """
    inputs, context = domain.encode(*chunks)
    waveforms = domain.decode(model.apply(variables, inputs, train=False), context, sources)
    return ChunkEstimates(waveforms, all_finite(waveforms))


def all_finite(estimates: Inexact[Array, "chunk ..."]) -> Bool[Array, " chunk"]:
    """Returns for each chunk whether all its values are finite."""
    return jnp.isfinite(estimates).all(axis=tuple(range(1, estimates.ndim)))


def describe_not_finite(cut: Cut, spec: ModelSpec) -> str:
    """Returns the message for a chunk that came out with NaN or infinite samples.

    Args:
        cut: Where the chunk lies.
        spec: Spec of the model.
    """
    start, end = max(cut.seen_start, 0), cut.seen_start + cut.seen_length
    return (
        f"'{spec.name}' gave samples that are not finite between {start / spec.sample_rate:.1f} s and "
        f"{end / spec.sample_rate:.1f} s; no stem of this track can be trusted."
    )


def _over_batches(apply: Callable[[Array], Array], spec: ModelSpec) -> Callable[[Array], Array]:
    """Returns a network for inputs with any batch axes; it sees one, as everywhere else."""
    axes = len(spec.input_shape())

    def flattened(inputs: Array) -> Array:
        batch = inputs.shape[:-axes]
        outputs = apply(inputs.reshape(-1, *inputs.shape[-axes:]))
        return outputs.reshape(*batch, *outputs.shape[1:])

    return flattened


def _shifted(separate: Callable[[Any], Any], shifts: tuple[int, ...], mixture: Waveform) -> SourceWaveform:
    """Averages over time shifts: silence in front, of which the estimates are dropped again."""
    total: Any = 0.0
    for delay in shifts:
        padded = jnp.pad(mixture, [(0, 0)] * (mixture.ndim - 2) + [(delay, 0), (0, 0)])
        total = total + separate(padded)[..., delay:, :]
    return total / len(shifts)


def _normalised(separate: Callable[[Any], Any], normalise: Normalise, mixture: Waveform) -> SourceWaveform:
    """Separates a track at the level that the network hears it at, and gives estimates the track's own again."""
    mono = mixture.mean(axis=-1)
    mean = mono.mean(axis=-1)[..., None, None]
    squares = jnp.square(mono[..., None] - mean).sum(axis=(-2, -1))
    deviation = jnp.sqrt(squares / max(mixture.shape[-2] - normalise.ddof, 1))[..., None, None]
    divisor = deviation + normalise.eps
    divisor = jnp.where(divisor > normalise.floor, divisor, 1.0)
    estimates = separate((mixture - mean) / divisor)
    return estimates * jnp.expand_dims(divisor, -3) + jnp.expand_dims(mean, -3)
