"""The moving window: blocks in, chunks out; separated chunks in, finished blocks out. Host arrays, bounded memory.

The same cutting and adding as dsp/overlap_add.py, which holds whole tracks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from jaxsep.dsp.overlap_add import Chunking
from jaxsep.typing import HostSourceWaveform, HostWaveform

Chunk = Float[np.ndarray, "chunk_time channel"]
SourceChunk = Float[np.ndarray, "source chunk_time channel"]


class ChunkCutter:
    """Cuts a stream of blocks into chunks.

    Attributes:
        length: Samples taken so far.
    """

    def __init__(self, chunking: Chunking, channels: int) -> None:
        """Starts in front of a track.

        Args:
            chunking: How to cut.
            channels: Of the blocks.
        """
        self._chunking = chunking
        self._window = np.zeros((chunking.chunk_length, channels), np.float32)
        # Positions are counted from the first chunk's start; the lead is zeros that are already there.
        self._filled = min(chunking.lead, chunking.chunk_length)
        self._lead_to_come = chunking.lead - self._filled
        self._chunks = 0
        # What the window has left behind, for a last chunk that is shifted back.
        self._behind = self._window[:0]
        self.length = 0

    def push(self, block: HostWaveform) -> Iterator[Chunk]:
        """Yields the chunks that a further block completes. A chunk is the caller's to keep."""
        self.length += len(block)
        if self._lead_to_come:
            block = np.concatenate([np.zeros((self._lead_to_come, block.shape[1]), np.float32), block])
            self._lead_to_come = 0
        yield from self._fill(block)

    def finish(self) -> Iterator[Chunk]:
        """Yields the remaining chunks, filled with zeros, the last one perhaps shifted back."""
        count = self._chunking.count(self.length) if self.length else self._chunks
        while self._chunks < count:
            index = self._chunks
            back = index * self._chunking.chunk_hop - self._chunking.estimate_lead
            back -= self._chunking.start(index, self.length)
            if back:
                seen = np.concatenate([self._behind[len(self._behind) - back :], self._window[: self._filled]])
                self._filled = min(len(seen), len(self._window))
                self._window[: self._filled] = seen[: self._filled]
            yield from self._fill(np.zeros((len(self._window) - self._filled, self._window.shape[1]), np.float32))

    def _fill(self, block: HostWaveform) -> Iterator[Chunk]:
        hop, chunk_length = self._chunking.chunk_hop, self._chunking.chunk_length
        taken = 0
        while taken < len(block) or self._filled == chunk_length:
            part = block[taken : taken + chunk_length - self._filled]
            self._window[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            taken += len(part)
            if self._filled == chunk_length:
                chunk = self._window.copy()
                self._window[: chunk_length - hop] = chunk[hop:]
                if self._chunking.last == "shifted":
                    self._behind = chunk[:hop]
                self._filled = chunk_length - hop
                self._chunks += 1
                yield chunk


class OverlapAdder:
    """Adds separated chunks and gives back what no later chunk can change."""

    def __init__(self, chunking: Chunking, sources: int, channels: int) -> None:
        """Starts in front of a track.

        Args:
            chunking: How the chunks were cut.
            sources: Of the chunks.
            channels: Of the chunks.
        """
        self._chunking = chunking
        overlap = chunking.estimate_length - chunking.chunk_hop
        self._tail = np.zeros((sources, overlap, channels), np.float32)
        self._tail_weights = np.zeros(overlap)
        self._to_drop = chunking.estimate_lead

    def add(self, chunk: SourceChunk) -> Iterator[HostSourceWaveform]:
        """Adds the next chunk and yields the samples that it finishes, those of the lead dropped.

        They may be views of the chunk, which must not change until they have been used.
        """
        hop, overlap = self._chunking.chunk_hop, self._tail.shape[1]
        if self._chunking.window == "none" and overlap <= hop:
            # Most of a chunk overlaps with no other, and is passed on without a copy.
            head = chunk[:, :overlap] + self._tail
            self._tail = chunk[:, hop:].copy()
            yield self._without_lead(head)
            yield self._without_lead(chunk[:, overlap:hop])
            return
        weights = self._chunking.weights
        total = chunk * weights.astype(np.float32)[:, None]
        total[:, :overlap] += self._tail
        finished = total[:, :hop]
        if self._chunking.window != "none":
            summed = weights.copy()
            summed[:overlap] += self._tail_weights
            finished = finished * (1 / summed[:hop, None]).astype(np.float32)
            self._tail_weights = summed[hop:]
        self._tail = total[:, hop:].copy()
        yield self._without_lead(finished)

    def finish(self, length: int) -> HostSourceWaveform:
        """Returns what the last chunk holds beyond its hop.

        Args:
            length: Samples of the track; what is returned may go beyond.
        """
        if self._chunking.window == "none":
            return self._without_lead(self._tail)
        return self._without_lead(self._tail / self._tail_weights[:, None].astype(np.float32))

    def _without_lead(self, finished: SourceChunk) -> HostSourceWaveform:
        dropped = min(self._to_drop, finished.shape[1])
        self._to_drop -= dropped
        return finished[:, dropped:]


class SideBySide:
    """Takes estimates that lie side by side, of which the last ones may be shifted back over those before.

    Which chunk is the last one shows when the track ends, so the last two are held.
    """

    def __init__(self, chunking: Chunking) -> None:
        """Starts in front of a track.

        Args:
            chunking: How the chunks were cut.
        """
        self._chunking = chunking
        self._held: list[SourceChunk] = []
        self._added = 0

    def add(self, chunk: SourceChunk) -> Iterator[HostSourceWaveform]:
        """Takes the next chunk's estimates and yields those that no later chunk can replace."""
        self._held.append(chunk)
        self._added += 1
        if len(self._held) > 2:
            yield self._held.pop(0)

    def finish(self, length: int) -> HostSourceWaveform:
        """Returns the last estimates, as `OverlapAdder.finish` does."""
        *before, last = self._held
        start = self._chunking.start(self._added - 1, length)
        kept = start - (self._added - 2) * self._chunking.chunk_hop
        return np.concatenate([*(chunk[:, :kept] for chunk in before), last], axis=1)


class ChannelGroups:
    """Fits any number of channels to a model: taken in groups of the model's number, each separated by itself.

    The last group is filled up by repeating its last channel, which comes back as the mean of its copies. So one
    channel goes through a stereo model twice over and comes back as one, six go through it in pairs, and two go through
    a mono model one by one.

    Attributes:
        count: Groups.
    """

    def __init__(self, channels: int, model_channels: int) -> None:
        """Groups channels.

        Args:
            channels: Of the audio.
            model_channels: Of the model.
        """
        self.count = -(-channels // model_channels)
        self._channels, self._model_channels = channels, model_channels

    def split(self, chunk: HostWaveform) -> tuple[Float[np.ndarray, "time model_channel"], ...]:
        """Returns the groups of a chunk (time, channel)."""
        size = self._model_channels
        missing = self.count * size - self._channels
        if self.count == 1 and not missing:
            return (chunk,)
        if missing:
            chunk = np.concatenate([chunk, np.repeat(chunk[:, -1:], missing, axis=1)], axis=1)
        return tuple(np.ascontiguousarray(chunk[:, start : start + size]) for start in range(0, chunk.shape[1], size))

    def join(self, groups: Sequence[Float[np.ndarray, "source time model_channel"]]) -> HostSourceWaveform:
        """Returns estimates (source, time, channel) with the audio's channels from those of its groups."""
        estimates = groups[0] if len(groups) == 1 else np.concatenate(groups, axis=2)
        if estimates.shape[2] == self._channels:
            return estimates
        repeated = estimates[..., self._channels - 1 :].mean(axis=2, keepdims=True)
        return np.concatenate([estimates[..., : self._channels - 1], repeated], axis=2)
