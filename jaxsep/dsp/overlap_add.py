"""Cutting a waveform into chunks, and adding what became of them back together, on the device.

Pure, jit-able, differentiable, vmappable, for whole waveforms; separation/window.py does the same in a moving window.
Where chunks lie is in cuts.py.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsep.dsp.cuts import Cut, Cuts
from jaxsep.typing import Waveform


class Chunks(NamedTuple):
    """Neighbouring chunks of one length.

    Attributes:
        cuts: Where each of them lies.
        samples: What the network sees of them (*batch, chunk, time, channel).
        weights: What its estimates are multiplied by (chunk, unit).
    """

    cuts: tuple[Cut, ...]
    samples: Float[Array, "*batch chunk chunk_time channel"]
    weights: Float[Array, "chunk unit"]


def split_into_chunks(audio: Waveform, cuts: Cuts) -> list[Chunks]:
    """Cuts waveforms (*batch, time, channel) of one sample or more into what the network sees of each chunk."""
    length = audio.shape[-2]
    cuts = cuts.of_length(length)
    audio = _padded(audio, 0, max(cuts.shortest - length, 0), "constant")
    extended = audio.shape[-2]
    found = [cuts.cut(index, length) for index in range(cuts.count(length))]
    border = cuts.edges.length if cuts.edges.reflected else 0
    before = max(-min(cut.seen_start for cut in found) - border, 0)
    after = max(max(cut.seen_start + cut.seen_length for cut in found) - extended - border, 0)
    padded = _padded(_padded(audio, border, border, "reflect"), before, after, "constant")
    groups = []
    for seen_length, group in itertools.groupby(found, key=lambda cut: cut.seen_length):
        own = tuple(group)
        starts = jnp.asarray([cut.seen_start + border + before for cut in own])
        cut_out = jax.vmap(
            lambda start, size=seen_length: jax.lax.dynamic_slice_in_dim(padded, start, size, axis=-2), out_axes=-3
        )
        samples = cut_out(starts)
        for place, cut in enumerate(own):
            if cut.fill == "reflect" and cut.length < seen_length:
                rest = _padded(samples[..., place, : cut.length, :], 0, seen_length - cut.length, "reflect")
                samples = samples.at[..., place, :, :].set(rest)
        weights = jnp.asarray(np.stack([cut.weights for cut in own]))
        groups.append(Chunks(own, samples, weights))
    return groups


def overlap_add(groups: Sequence[tuple[Chunks, Float[Array, "..."]]], cuts: Cuts, *, length: int) -> Waveform:
    """Adds weighted estimates of chunks together where `split_into_chunks` took the chunks.

    Args:
        groups: The chunks, and what the network gave of them (*batch, chunk, time, channel), times their weights.
        cuts: How they were cut.
        length: Samples of the track.

    Returns:
        Waveforms (*batch, time, channel) of `length` samples.
    """
    cuts = cuts.of_length(length)
    found = [cut for chunks, _ in groups for cut in chunks.cuts]
    # Outside of what is used of a chunk, its weights are zero, so that all of it can be added.
    first = min(cut.start - cut.offset for cut in found)
    last = max(cut.start - cut.offset + estimates.shape[-2] for chunks, estimates in groups for cut in chunks.cuts)
    weights = np.zeros(last - first)
    for cut in found:
        weights[cut.start - first : cut.start - first + cut.length] += cuts.share(cut)
    estimates = groups[0][1]
    total = jnp.zeros((*estimates.shape[:-3], last - first, estimates.shape[-1]), estimates.dtype)
    for chunks, estimates in groups:
        places = jnp.asarray([cut.start - cut.offset - first for cut in chunks.cuts])
        size = estimates.shape[-2]

        def add(total: Array, place_and_estimate: tuple[Array, Array], size: int = size) -> tuple[Array, None]:
            place, estimate = place_and_estimate
            there = jax.lax.dynamic_slice_in_dim(total, place, size, axis=-2)
            return jax.lax.dynamic_update_slice_in_dim(total, there + estimate, place, axis=-2), None

        total, _ = jax.lax.scan(add, total, (places, jnp.moveaxis(estimates, -3, 0)))
    whole = total[..., -first : length - first, :]
    if not cuts.divided:
        return whole
    factors = jnp.asarray(reciprocal(weights[-first : length - first]), whole.dtype)
    return whole * factors.reshape((1,) * (whole.ndim - 2) + (-1, 1))


def reciprocal(weights: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Returns one over summed weights; where nothing is estimated, as at the ends of msst's windows, zero."""
    return np.where(weights > 0, 1 / np.where(weights > 0, weights, 1), 0)


def _padded(audio: Waveform, before: int, after: int, mode: str) -> Float[Array, "*batch padded_time channel"]:
    if not before and not after:
        return audio
    return jnp.pad(audio, [(0, 0)] * (audio.ndim - 2) + [(before, after), (0, 0)], mode=mode)
