"""Mixtures on their way through a Separator: what is to be separated, and its state in the moving window.

Chunks are cut and added in window.py; what computes them is in separator.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from jaxsep.dsp.cuts import Cut, Cuts
from jaxsep.errors import SeparationAborted
from jaxsep.models.procedure import Normalise
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.levels import Levels, measure_levels
from jaxsep.separation.window import ChannelGroups, Chunk, ChunkCutter, ChunkSamples, OverlapAdder, SourceChunk
from jaxsep.typing import HostSourceWaveform, HostWaveform


@dataclass(frozen=True)
class Progress:
    """How far a separation has come.

    Attributes:
        done_seconds: How much of the track is separated so far.
        total_seconds: Length of the track; None where its length is not known beforehand.
    """

    done_seconds: float
    total_seconds: float | None


# Called after every chunk; the separation stops with `SeparationAborted` when it returns False.
ProgressCallback = Callable[[Progress], bool | None]


@dataclass(eq=False)
class Mixture:
    """What is to be separated, as it becomes known.

    Attributes:
        blocks: Opens the mixture at its beginning: blocks (time, channel) of any length, all with the same channels, at
            the model's sample rate. Called once for every pass of the separator, in threads; under time shifts and in
            ensembles several of its iterators are read at the same time.
        length: Number of samples, where known, for the progress; may be filled in when it is opened.
        progress: Called after every chunk.
        spool_directory: Directory of temporary files that wait for a further pass; None for the system's place.
        key: What the caller knows it by.
    """

    blocks: Callable[[], Iterator[HostWaveform]]
    length: int | None = None
    progress: ProgressCallback | None = None
    spool_directory: Path | None = None
    key: Any = None
    _of: "Mixture | None" = None
    _levels: dict[tuple[Normalise, int], Levels] = field(default_factory=dict)
    _lock: Any = field(default_factory=Lock)

    def for_lane(self, progress: ProgressCallback) -> "Mixture":
        """Returns the same mixture for one of several separations side by side, with a callback of its own."""
        return Mixture(self.blocks, None, progress, self.spool_directory, self.key, self, self._levels, self._lock)

    @property
    def known_length(self) -> int | None:
        """Number of samples, as far as it is known by now."""
        return self.length if self._of is None else self._of.known_length

    def levels(self, normalise: Normalise, model_channels: int) -> Levels:
        """Returns the levels of each channel, for which the mixture is read once."""
        with self._lock:
            key = (normalise, model_channels)
            if key not in self._levels:
                self._levels[key] = measure_levels(self.blocks(), normalise, model_channels)
            return self._levels[key]


class Streamed(NamedTuple):
    """What `Separator.stream_many` yields: a block of a mixture's estimates, or, without one, how the mixture ended.

    Attributes:
        mixture: The mixture that the block is of.
        estimates: Block (source, time, channel), or None at its end.
        error: Why it ended before its time.
    """

    mixture: Mixture
    estimates: HostSourceWaveform | None = None
    error: Exception | None = None


class Group(NamedTuple):
    """One group of channels of one chunk, on its way through the device."""

    window: "MixtureWindow"
    cut: Cut
    samples: ChunkSamples


class MixtureWindow:
    """A mixture in the moving window: blocks to chunks, and estimates of their groups of channels back to blocks.

    Chunks are made in another thread than the one that adds what has become of them.

    Attributes:
        mixture: The mixture that is separated.
        groups: Groups of its channels; known when the first chunk is.
        added: Number of chunks whose estimates have been added.
        error: Why the mixture cannot be separated.
    """

    groups: ChannelGroups

    def __init__(self, mixture: Mixture, spec: ModelSpec, *, passes: int = 1, delay: int = 0) -> None:
        """Starts in front of a mixture.

        Args:
            mixture: The mixture.
            spec: Spec of the model.
            passes: How often its chunks are asked for.
            delay: Zeros in front of the mixture that the network hears too (a time shift).
        """
        self.mixture = mixture
        self.added = 0
        self.error: Exception | None = None
        self._spec, self._passes, self._delay = spec, passes, delay
        self._adder = OverlapAdder(spec.cuts)
        self._waiting: list[SourceChunk] = []
        self._finished = -delay
        self._length = 0
        self._channels: int | None = None
        self._levels: Levels | None = None

    @property
    def length(self) -> int:
        """Samples read so far, in this pass."""
        return self._length

    @property
    def read_length(self) -> int:
        """Samples that the network hears of a mixture that has been read, its delay among them."""
        return self._length + self._delay

    def chunks(self, *others: Cuts) -> Iterator[tuple[int, Chunk]]:
        """Reads the mixture from its beginning.

        Args:
            *others: Other ways to cut it, side by side with that of the model.

        Yields:
            Which way (0 for the model's, then by place among the others), and a chunk, all channels side by side. What
            is cut in another way comes before the model's chunk that ends with the same sample.
        """
        self._length = 0
        if self._spec.procedure.normalise is not None and self._levels is None:
            self._levels = self.mixture.levels(self._spec.procedure.normalise, self._spec.channels)
        cutters: list[ChunkCutter] = []
        for block in self.mixture.blocks():
            if not cutters:
                channels = block.shape[1]
                self.groups = ChannelGroups(channels, self._spec.channels)
                cutters = [ChunkCutter(cuts, channels) for cuts in (self._spec.cuts, *others)]
            if self._levels is not None:
                block = self._levels.normalised(block)
            if self._delay and not self._length and len(block):
                block = np.concatenate([np.zeros((self._delay, block.shape[1]), np.float32), block])
                self._length -= self._delay
            self._length += len(block)
            for way, cutter in reversed(list(enumerate(cutters))):
                yield from ((way, chunk) for chunk in cutter.push(block))
        for way, cutter in reversed(list(enumerate(cutters))):
            yield from ((way, chunk) for chunk in cutter.finish())

    def add(self, cut: Cut, waveforms: SourceChunk) -> Iterator[HostSourceWaveform]:
        """Adds the estimates of the next group and yields the samples that it finishes."""
        self._waiting.append(waveforms)
        if len(self._waiting) < self.groups.count:
            return
        joined = self.groups.join(self._waiting)
        self._waiting = []
        self.added += 1
        for block in self._adder.add(cut, joined):
            yield from self._within(block)
        if self._passes == 1:
            self.report(cut)

    def added_by(self, adder: OverlapAdder) -> None:
        """Has estimates added by another adder, for chunks that lie elsewhere than the model's."""
        self._adder = adder

    def end(self) -> Iterator[Streamed]:
        """Yields the last samples, and how it ended."""
        if self.error is None and self.added:
            for block in self._adder.finish():
                yield from (Streamed(self.mixture, each) for each in self._within(block))
        yield Streamed(self.mixture, error=self.error)

    def report(self, cut: Cut, finished_passes: int = 0) -> None:
        """Tells the mixture's callback that a chunk is done.

        Raises:
            SeparationAborted: It returned False.
        """
        length, rate = self.mixture.known_length, self._spec.sample_rate
        done = max(cut.final - self._delay, 0)
        if length is not None:
            done = length if cut.start + cut.length >= length + self._delay else done
            done = (finished_passes * length + min(done, length)) // self._passes
        progress = Progress(done / rate, None if length is None else length / rate)
        if self.mixture.progress and self.mixture.progress(progress) is False:
            raise SeparationAborted("The separation was stopped by its progress callback.")

    def _within(self, block: HostSourceWaveform) -> Iterator[HostSourceWaveform]:
        """Yields what of a block lies in the mixture, at the mixture's level."""
        dropped = min(max(-self._finished, 0), block.shape[1])
        self._finished += dropped
        block = block[:, dropped:]
        block = block[:, : max(self.length - self._finished, 0)]
        self._finished += block.shape[1]
        if block.shape[1]:
            yield block if self._levels is None else self._levels.restored(block)
