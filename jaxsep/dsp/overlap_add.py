"""Cutting a waveform into overlapping chunks of one length, and adding what became of them back together.

Pure, jit-able, differentiable, vmappable, for whole waveforms; separation/stream.py does the same in a moving window.
"""

from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, Float

from jaxsep.config import Config
from jaxsep.typing import Waveform

Chunks = Float[Array, "*batch chunk chunk_time channel"]


class Chunking(Config):
    """How a track is cut into the pieces that are separated one by one. All lengths in samples.

    Chunk number k sees the `chunk_length` samples from `k * chunk_hop - lead` on, zeros where the track has none, and
    what becomes of it is added at the same place.

    Attributes:
        chunk_length: What a chunk sees.
        chunk_hop: From one chunk's start to the next.
        lead: Zeros in front of the first chunk.
        window: 'none' where a chunk's output fades in and out by itself, as an inverse STFT does, and is added as it
            is; 'triangular' where it does not and chunks are cross-faded.
    """

    chunk_length: int = pydantic.Field(gt=0)
    chunk_hop: int = pydantic.Field(gt=0)
    lead: int = pydantic.Field(default=0, ge=0)
    window: Literal["none", "triangular"] = "none"

    @pydantic.model_validator(mode="after")
    def _chunks_cover_the_track(self) -> "Chunking":
        if self.chunk_hop > self.chunk_length:
            raise ValueError(f"chunk_hop (= {self.chunk_hop}) must not exceed chunk_length (= {self.chunk_length})")
        return self

    def count(self, length: int) -> int:
        """Returns how many chunks a track of `length` samples takes.

        Chunks that fade by themselves go on until their hops have passed the end, so that every sample gets all that
        adds up to it. Cross-faded chunks end with the first one that reaches the end.
        """
        reached_by_first = self.chunk_hop if self.window == "none" else self.chunk_length
        return 1 + max(-(-(length + self.lead - reached_by_first) // self.chunk_hop), 0)

    @property
    def weights(self) -> np.ndarray:
        """The weights (time,) of a chunk's samples, to be divided by their sum at each sample of the track.

        All are positive, so that a sample that one chunk alone sees is restored; they are flat where chunks do not
        overlap.
        """
        return _weights(self)


@cache
def _weights(chunking: Chunking) -> np.ndarray:
    if chunking.window == "none":
        return np.ones(chunking.chunk_length)
    fade = max(chunking.chunk_length - chunking.chunk_hop, 1)
    rise = np.minimum(np.arange(1, chunking.chunk_length + 1), fade) / fade
    return np.minimum(rise, rise[::-1])


def split_into_chunks(audio: Waveform, chunking: Chunking) -> Chunks:
    """Cuts waveforms (*batch, time, channel) into chunks (*batch, chunk, time, channel), zeros beyond the ends."""
    length, count = audio.shape[-2], chunking.count(audio.shape[-2])
    covered = (count - 1) * chunking.chunk_hop + chunking.chunk_length
    end = max(covered - chunking.lead - length, 0)
    padded = jnp.pad(audio, [(0, 0)] * (audio.ndim - 2) + [(chunking.lead, end), (0, 0)])
    starts = range(0, count * chunking.chunk_hop, chunking.chunk_hop)
    return jnp.stack([padded[..., start : start + chunking.chunk_length, :] for start in starts], axis=-3)


def overlap_add(chunks: Chunks, chunking: Chunking, *, length: int) -> Waveform:
    """Adds chunks (*batch, chunk, time, channel) together where `split_into_chunks` took them.

    Cross-faded chunks are weighted by a partition of unity, at the track's ends too.

    Args:
        chunks: As many as `chunking.count(length)`.
        chunking: How they were cut.
        length: Samples of the track.

    Returns:
        Waveforms (*batch, time, channel) of `length` samples.
    """
    count, hop, chunk_length = chunks.shape[-3], chunking.chunk_hop, chunking.chunk_length
    covered = (count - 1) * hop + chunk_length
    starts = np.arange(count) * hop
    if chunking.window != "none":
        sums = np.zeros(covered)
        for start in starts:
            sums[start : start + chunk_length] += chunking.weights
        shares = np.stack([chunking.weights / sums[start : start + chunk_length] for start in starts])
        chunks = chunks * jnp.asarray(shares, chunks.dtype).reshape((1,) * (chunks.ndim - 3) + (*shares.shape, 1))

    def add(audio: Array, start_and_chunk: tuple[Array, Array]) -> tuple[Array, None]:
        start, chunk = start_and_chunk
        present = jax.lax.dynamic_slice_in_dim(audio, start, chunk_length, axis=-2)
        return jax.lax.dynamic_update_slice_in_dim(audio, present + chunk, start, axis=-2), None

    empty = jnp.zeros((*chunks.shape[:-3], covered, chunks.shape[-1]), chunks.dtype)
    audio, _ = jax.lax.scan(add, empty, (jnp.asarray(starts), jnp.moveaxis(chunks, -3, 0)))
    return audio[..., chunking.lead : chunking.lead + length, :]
