"""A network on the frames of a whole track, in chunks that may overlap: as the moving window sees them, all at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from jaxsep.dsp.cuts import FrameCuts
from jaxsep.typing import Spectrogram


def split_frames(
    frames: Inexact[Array, "*batch frame freq channel"], cuts: FrameCuts
) -> Inexact[Array, "*batch segment segment_frame freq channel"]:
    """Returns the frames of each chunk, zeros behind the track."""
    count = 1 + max(-(-(frames.shape[-3] - cuts.frames) // cuts.frame_hop), 0)
    covered = (count - 1) * cuts.frame_hop + cuts.frames
    padding = [(0, 0)] * (frames.ndim - 3) + [(0, covered - frames.shape[-3]), (0, 0), (0, 0)]
    padded = jnp.pad(frames, padding)
    if cuts.frame_hop == cuts.frames:
        return padded.reshape(*frames.shape[:-3], count, cuts.frames, *frames.shape[-2:])
    places = np.arange(count)[:, None] * cuts.frame_hop + np.arange(cuts.frames)
    return jnp.take(padded, places, axis=-3)


def run_overlapped(
    apply: Callable[[Any], Any],
    spectrogram: Spectrogram,
    cuts: FrameCuts,
    seen: Callable[[Any], Any],
    use: Callable[[Any, Any], Any],
) -> tuple[Inexact[Array, "*batch source frame bin channel"], Float[np.ndarray, " frame"]]:
    """Runs a network over overlapping chunks, and adds up weighted frames of what is made of each.

    Args:
        apply: Calls the network.
        spectrogram: The mixture's, with all bins.
        cuts: Where chunks lie.
        seen: Gives what the network sees of a spectrogram.
        use: Called with the network's magnitudes and the spectrogram of all chunks.

    Returns:
        The sums, and for each frame the sum of its weights.
    """
    frames = spectrogram.shape[-3]
    segments = split_frames(spectrogram, cuts)
    used = use(apply(seen(segments)), segments)
    used = used * jnp.asarray(cuts.weights, used.dtype).reshape((1,) * (used.ndim - 3) + (-1, 1, 1))
    count = segments.shape[-4]
    covered = (count - 1) * cuts.frame_hop + cuts.frames
    weights = np.zeros(covered)
    for index in range(count):
        weights[index * cuts.frame_hop : index * cuts.frame_hop + cuts.frames] += cuts.weights
    # (*batch, segment, source, frame, bin, channel)
    by_segment = jnp.moveaxis(used, -5, 0)
    total = jnp.zeros((*by_segment.shape[1:-3], covered, *by_segment.shape[-2:]), used.dtype)

    def add(total: Array, start_and_part: tuple[Array, Array]) -> tuple[Array, None]:
        start, part = start_and_part
        there = jax.lax.dynamic_slice_in_dim(total, start, cuts.frames, axis=-3)
        return jax.lax.dynamic_update_slice_in_dim(total, there + part, start, axis=-3), None

    total, _ = jax.lax.scan(add, total, (jnp.arange(count) * cuts.frame_hop, by_segment))
    return total[..., :frames, :, :], weights[:frames]
