"""The moving window: blocks in, chunks out; separated chunks in, finished blocks out. Host arrays, bounded memory.

The same cutting and adding as dsp/overlap_add.py, which holds whole tracks.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxsep.dsp.cuts import Cut, Cuts
from jaxsep.dsp.overlap_add import reciprocal
from jaxsep.typing import HostSourceWaveform, HostWaveform

ChunkSamples = Float[np.ndarray, "chunk_time channel"]
SourceChunk = Float[np.ndarray, "source chunk_time channel"]


class Chunk(NamedTuple):
    """One chunk of a track.

    Attributes:
        cut: Where it lies.
        samples: What the network sees of it (time, channel).
    """

    cut: Cut
    samples: ChunkSamples


class ChunkCutter:
    """Cuts a stream of blocks into chunks.

    A chunk is given away as soon as nothing that may follow can change it.

    Attributes:
        length: Samples taken so far.
    """

    def __init__(self, cuts: Cuts, channels: int) -> None:
        """Starts in front of a track.

        Args:
            cuts: How to cut.
            channels: Channels of the blocks.
        """
        self._cuts = cuts
        # What is known of the track and may still be seen, and the position of its first sample.
        self._samples = np.zeros((0, channels), np.float32)
        self._held = 0
        self._position = 0
        self._next = 0
        self._is_begun = False
        self.length = 0

    def push(self, block: HostWaveform) -> Iterator[Chunk]:
        """Yields the chunks that a further block completes. A chunk is the caller's to keep."""
        self._append(block)
        self.length += len(block)
        if not self._is_begun:
            if self._cuts.undecided(self.length):
                return
            self._begin()
        while self._cuts.is_certain(self._next, self.length):
            yield self._chunk(self._cuts.cut(self._next, None))

    def finish(self) -> Iterator[Chunk]:
        """Yields the remaining chunks."""
        if not self.length:
            return
        missing = self._cuts.shortest - self.length
        if missing > 0:
            self._append(np.zeros((missing, self._samples.shape[1]), np.float32))
        if not self._is_begun:
            self._begin()
        if self._cuts.edges.reflected:
            self._append(self._samples[self._held - 1 - self._cuts.edges.length : self._held - 1][::-1].copy())
        count = self._cuts.count(self.length)
        while self._next < count:
            yield self._chunk(self._cuts.cut(self._next, self.length))

    def _begin(self) -> None:
        self._is_begun = True
        self._cuts = self._cuts.of_length(self.length)
        edges = self._cuts.edges
        if edges.reflected:
            before = self._samples[1 : edges.length + 1][::-1]
            self._samples = np.concatenate([before, self._samples[: self._held]])
            self._held = len(self._samples)
            self._position = -edges.length

    def _append(self, block: HostWaveform) -> None:
        if self._held + len(block) > len(self._samples):
            grown = np.empty((2 * self._held + len(block), self._samples.shape[1]), np.float32)
            grown[: self._held] = self._samples[: self._held]
            self._samples = grown
        self._samples[self._held : self._held + len(block)] = block
        self._held += len(block)

    def _chunk(self, cut: Cut) -> Chunk:
        start, end = cut.seen_start - self._position, cut.seen_start + cut.seen_length - self._position
        known = self._samples[max(start, 0) : max(min(end, self._held), 0)]
        before, after = max(-start, 0), max(end - max(self._held, 0), 0)
        if cut.fill == "reflect" and after:
            samples = np.pad(known, [(0, after), (0, 0)], mode="reflect")
        elif before or after:
            samples = np.zeros((cut.seen_length, self._samples.shape[1]), np.float32)
            samples[before : before + len(known)] = known
        else:
            samples = known.copy()
        self._next += 1
        self._forget()
        return Chunk(cut, samples)

    def _forget(self) -> None:
        """Lets go of what no chunk will see."""
        needed_from = self._cuts.cut(self._next, None).seen_start - self._cuts.lookback
        if self._cuts.edges.reflected:
            # The end is reflected too.
            needed_from = min(needed_from, self.length - self._cuts.edges.length - 1)
        dropped = min(needed_from - self._position, self._held)
        # Not for a little: what stays is moved.
        if dropped > self._held // 2:
            self._samples[: self._held - dropped] = self._samples[dropped : self._held].copy()
            self._held -= dropped
            self._position += dropped


class OverlapAdder:
    """Adds weighted estimates of chunks and gives back what no later chunk can change."""

    def __init__(self, cuts: Cuts) -> None:
        """Starts in front of a track.

        Args:
            cuts: How the chunks were cut.
        """
        self._cuts = cuts
        # Estimates that wait for those of the next chunk, at whose start they begin.
        self._tail: SourceChunk | None = None
        self._tail_start = 0
        self._tail_weights = np.zeros(0)

    def add(self, cut: Cut, estimates: SourceChunk) -> Iterator[HostSourceWaveform]:
        """Adds the next chunk and yields the samples that it finishes, none of those in front of the track.

        They may be views of the estimates, which must not change until they have been used.

        Args:
            cut: Where the chunk lies.
            estimates: What the network gave (source, time, channel), times the chunk's weights.
        """
        used = estimates[:, cut.offset : cut.offset + cut.length]
        tail = used[:, :0] if self._tail is None else self._tail
        shared = min(tail.shape[1], used.shape[1])
        done = cut.final - cut.start
        # Most of a chunk overlaps with no other, and is passed on without a copy.
        parts = [used[:, :shared] + tail[:, :shared], used[:, shared:], tail[:, shared:]]
        factors = None
        if self._cuts.divided:
            weights = np.zeros(max(tail.shape[1], used.shape[1]))
            weights[: len(self._tail_weights)] = self._tail_weights
            weights[: used.shape[1]] += self._cuts.share(cut)
            factors, self._tail_weights = reciprocal(weights[:done]).astype(np.float32), weights[done:]
        start, rest = 0, []
        for part in parts:
            finished = part[:, : max(done - start, 0)]
            if finished.shape[1]:
                if factors is not None:
                    finished = finished * factors[start : start + finished.shape[1], None]
                yield finished[:, max(-cut.start - start, 0) :]
            rest.append(part[:, finished.shape[1] :])
            start += part.shape[1]
        self._tail, self._tail_start = np.concatenate(rest, axis=1), cut.final

    def finish(self) -> Iterator[HostSourceWaveform]:
        """Yields what the last chunk holds beyond the start of a next one."""
        if self._tail is not None and self._tail.shape[1]:
            finished = self._tail
            if self._cuts.divided:
                finished = finished * reciprocal(self._tail_weights).astype(np.float32)[:, None]
            yield finished[:, max(-self._tail_start, 0) :]
            self._tail = None


class ChannelGroups:
    """Fits any number of channels to a model: taken in groups of the model's number, each separated by itself.

    The last group is filled up by repeating its last channel, which comes back as the mean of its copies. So one
    channel goes through a stereo model twice over and comes back as one, six go through it in pairs, and two go through
    a mono model one by one.

    Attributes:
        count: Number of groups.
    """

    def __init__(self, channels: int, model_channels: int) -> None:
        """Groups channels.

        Args:
            channels: Channels of the audio.
            model_channels: Channels that the model takes.
        """
        self.count = -(-channels // model_channels)
        self._channels, self._model_channels = channels, model_channels

    def split(self, samples: HostWaveform) -> tuple[Float[np.ndarray, "time model_channel"], ...]:
        """Returns the groups of samples (time, channel)."""
        size = self._model_channels
        missing = self.count * size - self._channels
        if self.count == 1 and not missing:
            return (samples,)
        if missing:
            samples = np.concatenate([samples, np.repeat(samples[:, -1:], missing, axis=1)], axis=1)
        return tuple(
            np.ascontiguousarray(samples[:, start : start + size]) for start in range(0, samples.shape[1], size)
        )

    def join(self, groups: Sequence[Float[np.ndarray, "source time model_channel"]]) -> HostSourceWaveform:
        """Returns estimates (source, time, channel) with the audio's channels from those of its groups."""
        estimates = groups[0] if len(groups) == 1 else np.concatenate(groups, axis=2)
        if estimates.shape[2] == self._channels:
            return estimates
        repeated = estimates[..., self._channels - 1 :].mean(axis=2, keepdims=True)
        return np.concatenate([estimates[..., : self._channels - 1], repeated], axis=2)
