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
Last = Literal["padded", "shifted"]


class Chunking(Config):
    """How a track is cut into the pieces that are separated one by one. All lengths in samples.

    Chunk number k sees the `chunk_length` samples from `k * chunk_hop - lead` on, zeros where the track has none. What
    becomes of it, all but `context` samples at each end, is added at the same place.

    Attributes:
        chunk_length: What a chunk sees.
        chunk_hop: From one chunk's start to the next.
        lead: Zeros in front of the first chunk.
        window: 'none' where a chunk's output fades in and out by itself, as an inverse STFT does, or stands alone, and
            is added as it is; 'triangular' where it does not and chunks are cross-faded.
        context: Samples at each end of a chunk that are seen and not estimated.
        last: 'padded' where the last chunk sees zeros behind the track; 'shifted' where its estimates end with the
            track, and replace those of the chunk before. Tracks shorter than a chunk are padded to the length of one.
    """

    chunk_length: int = pydantic.Field(gt=0)
    chunk_hop: int = pydantic.Field(gt=0)
    lead: int = pydantic.Field(default=0, ge=0)
    window: Literal["none", "triangular"] = "none"
    context: int = pydantic.Field(default=0, ge=0)
    last: Last = "padded"

    @pydantic.model_validator(mode="after")
    def _chunks_cover_the_track(self) -> "Chunking":
        if self.chunk_hop > self.chunk_length:
            raise ValueError(f"chunk_hop (= {self.chunk_hop}) must not exceed chunk_length (= {self.chunk_length})")
        if self.chunk_hop > self.estimate_length:
            raise ValueError(
                f"chunk_hop (= {self.chunk_hop}) must not exceed what is estimated of a chunk, chunk_length less twice "
                f"the context (= {self.estimate_length})"
            )
        if self.context > self.lead:
            raise ValueError(
                f"lead (= {self.lead}) must not be less than context (= {self.context}), "
                "or the track's first samples are not estimated"
            )
        if self.last == "shifted" and (
            self.chunk_hop != self.estimate_length or self.lead != self.context or self.window != "none"
        ):
            raise ValueError(
                "a last chunk can be shifted where estimates lie side by side from the track's start on: chunk_hop all "
                "of what is estimated, lead = context, window = 'none'"
            )
        return self

    @property
    def estimate_length(self) -> int:
        """Samples that are estimated of a chunk."""
        return self.chunk_length - 2 * self.context

    @property
    def estimate_lead(self) -> int:
        """Estimated samples in front of the track."""
        return self.lead - self.context

    def count(self, length: int) -> int:
        """Returns how many chunks a track of `length` samples takes.

        Chunks that fade by themselves go on until their hops have passed the end, so that every sample gets all that
        adds up to it. Cross-faded chunks end with the first one that reaches the end.
        """
        if self.last == "shifted":
            count = -(-max(length, self.chunk_length) // self.chunk_hop)
            while count > 1 and self.start(count - 1, length) >= length:
                count -= 1
            return count
        reached_by_first = self.chunk_hop if self.window == "none" else self.estimate_length
        return 1 + max(-(-(length + self.estimate_lead - reached_by_first) // self.chunk_hop), 0)

    def start(self, index: int, length: int) -> int:
        """Returns where the estimates of a chunk begin in a track of `length` samples; negative in front of it."""
        start = index * self.chunk_hop - self.estimate_lead
        return start if self.last == "padded" else min(start, max(length, self.chunk_length) - self.chunk_hop)

    @property
    def weights(self) -> np.ndarray:
        """The weights (time,) of a chunk's estimates, to be divided by their sum at each sample of the track.

        All are positive, so that a sample that one chunk alone sees is restored; they are flat where chunks do not
        overlap.
        """
        return _weights(self)


@cache
def _weights(chunking: Chunking) -> np.ndarray:
    if chunking.window == "none":
        return np.ones(chunking.estimate_length)
    fade = max(chunking.estimate_length - chunking.chunk_hop, 1)
    rise = np.minimum(np.arange(1, chunking.estimate_length + 1), fade) / fade
    return np.minimum(rise, rise[::-1])


def split_into_chunks(audio: Waveform, chunking: Chunking) -> Chunks:
    """Cuts waveforms (*batch, time, channel) into chunks (*batch, chunk, time, channel), zeros beyond the ends."""
    starts = _starts(chunking, audio.shape[-2])
    end = max(starts[-1] + chunking.estimate_length + chunking.context - audio.shape[-2], 0)
    padded = jnp.pad(audio, [(0, 0)] * (audio.ndim - 2) + [(chunking.lead, end), (0, 0)])
    first = chunking.estimate_lead
    return jnp.stack(
        [padded[..., first + start : first + start + chunking.chunk_length, :] for start in starts], axis=-3
    )


def overlap_add(chunks: Chunks, chunking: Chunking, *, length: int) -> Waveform:
    """Adds estimates (*batch, chunk, time, channel) together where `split_into_chunks` took their chunks.

    Cross-faded chunks are weighted by a partition of unity, at the track's ends too.

    Args:
        chunks: As many as `chunking.count(length)`, each of `chunking.estimate_length` samples.
        chunking: How they were cut.
        length: Samples of the track.

    Returns:
        Waveforms (*batch, time, channel) of `length` samples.
    """
    estimate_length, lead = chunking.estimate_length, chunking.estimate_lead
    starts = np.asarray(_starts(chunking, length)) + lead
    covered = int(starts[-1]) + estimate_length
    if chunking.window != "none":
        sums = np.zeros(covered)
        for start in starts:
            sums[start : start + estimate_length] += chunking.weights
        shares = np.stack([chunking.weights / sums[start : start + estimate_length] for start in starts])
        chunks = chunks * jnp.asarray(shares, chunks.dtype).reshape((1,) * (chunks.ndim - 3) + (*shares.shape, 1))

    def add(audio: Array, start_and_chunk: tuple[Array, Array]) -> tuple[Array, None]:
        start, chunk = start_and_chunk
        if chunking.last == "padded":
            chunk = chunk + jax.lax.dynamic_slice_in_dim(audio, start, estimate_length, axis=-2)
        return jax.lax.dynamic_update_slice_in_dim(audio, chunk, start, axis=-2), None

    empty = jnp.zeros((*chunks.shape[:-3], covered, chunks.shape[-1]), chunks.dtype)
    audio, _ = jax.lax.scan(add, empty, (jnp.asarray(starts), jnp.moveaxis(chunks, -3, 0)))
    return audio[..., lead : lead + length, :]


def _starts(chunking: Chunking, length: int) -> list[int]:
    return [chunking.start(index, length) for index in range(chunking.count(length))]
