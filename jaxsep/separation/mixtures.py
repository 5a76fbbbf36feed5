"""Mixtures on their way through a Separator: what is to be separated, and its state in the moving window.

Chunks are cut and added in window.py; what computes them is in separator.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxsep.errors import SeparationAborted
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.window import ChannelGroups, Chunk, ChunkCutter, OverlapAdder, SideBySide, SourceChunk
from jaxsep.typing import HostSourceWaveform, HostWaveform


@dataclass(frozen=True)
class Progress:
    """How far a separation has come.

    Attributes:
        done_seconds: Of the track, separated so far.
        total_seconds: Of the track; None where its length is not known beforehand.
    """

    done_seconds: float
    total_seconds: float | None


# Called after every chunk; the separation stops with `SeparationAborted` when it returns False.
ProgressCallback = Callable[[Progress], bool | None]


@dataclass(eq=False)
class Mixture:
    """What is to be separated, as it becomes known.

    Attributes:
        blocks: Opens it at its beginning: blocks (time, channel) of any length, all with the same channels, at the
            model's sample rate. Called once for every pass of the separator, in a thread.
        length: Its samples, where known, for the progress; may be filled in when it is opened.
        progress: Called after every chunk.
        spool_directory: Where the Wiener filter keeps its temporary file; None for the system's place.
        key: What the caller knows it by.
    """

    blocks: Callable[[], Iterator[HostWaveform]]
    length: int | None = None
    progress: ProgressCallback | None = None
    spool_directory: Path | None = None
    key: Any = None


class Streamed(NamedTuple):
    """What `Separator.stream_many` yields: a block of a mixture's estimates, or, without one, how the mixture ended.

    Attributes:
        mixture: Which.
        estimates: Block (source, time, channel), or None at its end.
        error: Why it ended before its time.
    """

    mixture: Mixture
    estimates: HostSourceWaveform | None = None
    error: Exception | None = None


class Group(NamedTuple):
    """One group of channels of one chunk, on its way through the device."""

    window: "MixtureWindow"
    chunk: Chunk


class MixtureWindow:
    """A mixture in the moving window: blocks to chunks, and estimates of their groups of channels back to blocks.

    Chunks are made in another thread than the one that adds what has become of them.

    Attributes:
        mixture: What is separated.
        groups: Of its channels; known when the first chunk is.
        added: Chunks whose estimates have been added.
        error: Why the mixture cannot be separated.
    """

    groups: ChannelGroups

    def __init__(self, mixture: Mixture, spec: ModelSpec, sources: int, passes: int) -> None:
        self.mixture = mixture
        self.added = 0
        self.error: Exception | None = None
        self._spec, self._sources, self._passes = spec, sources, passes
        self._cutter: ChunkCutter | None = None
        self._adder: OverlapAdder | SideBySide | None = None
        self._waiting: list[SourceChunk] = []
        self._finished = 0

    @property
    def length(self) -> int:
        """Samples read so far, in this pass."""
        return 0 if self._cutter is None else self._cutter.length

    def chunks(self) -> Iterator[Chunk]:
        """Reads the mixture from its beginning."""
        self._cutter = None
        for block in self.mixture.blocks():
            if self._cutter is None:
                self.groups = ChannelGroups(block.shape[1], self._spec.channels)
                chunking, channels = self._spec.chunking, block.shape[1]
                self._cutter = ChunkCutter(chunking, channels)
                shifted = chunking.last == "shifted"
                self._adder = SideBySide(chunking) if shifted else OverlapAdder(chunking, self._sources, channels)
            yield from self._cutter.push(block)
        if self._cutter is not None:
            yield from self._cutter.finish()

    def add(self, waveforms: SourceChunk) -> Iterator[HostSourceWaveform]:
        """Adds the estimates of the next group and yields the samples that it finishes."""
        self._waiting.append(waveforms)
        if len(self._waiting) < self.groups.count:
            return
        assert self._adder is not None
        joined = self.groups.join(self._waiting)
        self._waiting = []
        self.added += 1
        for block in self._adder.add(joined):
            yield from self._cut(block)
        if self._passes == 1:
            self.report(self.added - 1)

    def end(self) -> Iterator[Streamed]:
        """Yields the last samples, and how it ended."""
        if self.error is None and self._adder is not None and self.added:
            for block in self._cut(self._adder.finish(self.length)):
                yield Streamed(self.mixture, block)
        yield Streamed(self.mixture, error=self.error)

    def report(self, index: int, finished_passes: int = 0) -> None:
        """Tells the mixture's callback that a chunk is done.

        Raises:
            SeparationAborted: It returned False.
        """
        length, rate = self.mixture.length, self._spec.sample_rate
        done = (index + 1) * self._spec.chunking.chunk_hop - self._spec.chunking.estimate_lead
        if length is not None:
            done = length if index + 1 == self._spec.chunking.count(length) else min(done, length)
            done = (finished_passes * length + done) // self._passes
        progress = Progress(done / rate, None if length is None else length / rate)
        if self.mixture.progress and self.mixture.progress(progress) is False:
            raise SeparationAborted("The separation was stopped by its progress callback.")

    def _cut(self, block: HostSourceWaveform) -> Iterator[HostSourceWaveform]:
        block = block[:, : self.length - self._finished]
        self._finished += block.shape[1]
        if block.shape[1]:
            yield block
