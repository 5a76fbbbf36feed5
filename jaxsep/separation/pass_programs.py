"""What is compiled for the passes over a track: pure functions of arrays, for the network and for the Wiener filter."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxsep.dsp.wiener import (
    WienerConfig,
    WienerStatistics,
    chunk_statistics,
    filter_step,
    initial_estimates,
    spatial_model,
)
from jaxsep.models.context import select
from jaxsep.models.domain import Magnitude
from jaxsep.models.whole_track import INPUT
from jaxsep.separation.estimate import ChunkEstimates, Chunks, Weights, all_finite
from jaxsep.typing import SourceMagnitude, Spectrogram, Variables


class ChunkMagnitudes(NamedTuple):
    """What a network gives of each chunk.

    Attributes:
        magnitudes: Its magnitudes (chunk, source, frame, freq, channel).
        statistics: Statistics of the filter's initial estimates; None where they are not asked for.
        finite: Whether each chunk's magnitudes are all finite.
    """

    magnitudes: Float[Array, "chunk source frame freq channel"]
    statistics: WienerStatistics | None
    finite: Bool[Array, " chunk"]


class ChunkStatistics(NamedTuple):
    """What a pass between the network's and the last takes from each chunk.

    Attributes:
        statistics: Statistics of the estimates so far.
        finite: Whether they are all finite.
    """

    statistics: WienerStatistics
    finite: Bool[Array, " chunk"]


def network_pass(
    variables: Variables,
    chunks: tuple[Chunks, Weights],
    *,
    network: nn.Module,
    domain: Magnitude,
    wiener: WienerConfig | None,
) -> ChunkMagnitudes:
    """Runs the network on chunks.

    Args:
        variables: The model's variables.
        chunks: The chunks' samples, and the weights of their frames.
        network: A network on magnitudes.
        domain: How samples become what it sees.
        wiener: The filter, to have statistics of its initial estimates; None for none.
    """
    inputs, context = domain.encode(*chunks)
    magnitudes = network.apply(variables, inputs, train=False)
    statistics = None
    if wiener is not None:
        there = _there(magnitudes, chunks[1])
        in_band = context.spectrogram[..., : domain.bins, :]
        statistics = _statistics_of(initial_estimates(there, in_band, config=wiener), context.spectrogram, domain)
    return ChunkMagnitudes(magnitudes, statistics, all_finite(magnitudes))


def statistics_pass(
    constants: tuple[()],
    pieces: tuple[Chunks, Weights, SourceMagnitude, Any],
    *,
    domain: Magnitude,
    wiener: WienerConfig,
) -> ChunkStatistics:
    """Gathers the statistics of one more iteration of the filter.

    Args:
        constants: None; the place of a model's variables.
        pieces: Samples, weights of frames, magnitudes of all sources and the filter's models so far.
        domain: The model's.
        wiener: The filter.
    """
    samples, weights, magnitudes, models = pieces
    _, context = domain.encode(samples, weights)
    estimates = _filtered(_there(magnitudes, weights), context.spectrogram[..., : domain.bins, :], models, wiener)
    return ChunkStatistics(_statistics_of(estimates, context.spectrogram, domain), all_finite(estimates))


def last_pass(
    constants: tuple[()],
    pieces: tuple[Chunks, Weights, SourceMagnitude, Any],
    *,
    domain: Magnitude,
    wiener: WienerConfig | None,
    sources: tuple[int, ...],
    blocks: bool,
) -> ChunkEstimates:
    """Turns magnitudes into weighted waveforms.

    Args:
        constants: None; the place of a model's variables.
        pieces: Samples, weights of frames, magnitudes of all sources and the filter's models.
        domain: The model's.
        wiener: The filter; None for the model's masks.
        sources: Numbers of the sources to return.
        blocks: Whether the filter iterates on each piece by itself, without models of the whole track.
    """
    samples, weights, magnitudes, models = pieces
    _, context = domain.encode(samples, weights)
    if wiener is None:
        waveforms = domain.decode(magnitudes, context, sources)
        return ChunkEstimates(waveforms, all_finite(waveforms))
    in_band = context.spectrogram[..., : domain.bins, :]
    estimates = _filtered(_there(magnitudes, weights), in_band, models, wiener)
    if blocks:
        for _ in range(wiener.iterations):
            estimates = jax.lax.optimization_barrier(estimates)
            model = spatial_model(_statistics_of(estimates, context.spectrogram, domain), config=wiener)
            estimates = filter_step(estimates, in_band, model, config=wiener)
    waveforms = domain.waveforms(select(estimates, sources, axis=-4))
    return ChunkEstimates(waveforms, all_finite(waveforms))


def whole_track_pass(
    variables: Variables,
    carry: Any,
    samples: Chunks | None,
    weights: Weights,
    activations: dict[str, Any],
    *,
    domain: Magnitude,
    network: nn.Module,
    name: str,
) -> tuple[Any, dict[str, Any]]:
    """Runs one pass of a network over a piece of a track that it hears from end to end.

    Args:
        variables: The model's variables.
        carry: State behind the piece before.
        samples: The piece's samples; None where the pass reads activations alone.
        weights: Weights of its frames.
        activations: What passes before wrote of the piece, by name.
        domain: How samples become what the network sees.
        network: A `WholeTrackNetwork`.
        name: Name of the pass.
    """
    inputs = dict(activations)
    if samples is not None:
        inputs[INPUT], _ = domain.encode(samples, weights)
    return network.apply(variables, name, carry, inputs, weights > 0, method="run_pass")


def _there(magnitudes: SourceMagnitude, weights: Weights) -> SourceMagnitude:
    """Returns magnitudes that are zero where the track has no frame: of silence, networks may give anything."""
    return jnp.where((weights > 0)[:, None, :, None, None], magnitudes, 0)


def _filtered(
    magnitudes: SourceMagnitude, in_band: Spectrogram, models: tuple[Any, ...], wiener: WienerConfig
) -> Array:
    estimates = initial_estimates(magnitudes, in_band, config=wiener)
    for model in models:
        estimates = filter_step(jax.lax.optimization_barrier(estimates), in_band, model, config=wiener)
    return estimates


def _statistics_of(estimates: Array, spectrogram: Spectrogram, domain: Magnitude) -> WienerStatistics:
    """Returns statistics in the network's bins: above them magnitudes are zero, and so is what is filtered."""
    statistics = chunk_statistics(estimates, spectrogram[..., : domain.bins, :])
    # The filter's scale is that of the whole mixture, bins above the model's bandwidth included.
    return statistics._replace(peak_power=jnp.square(jnp.abs(spectrogram)).max(axis=(1, 2, 3)))
