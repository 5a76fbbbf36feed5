"""One input on its way to its stems: decoded, resampled, put together, encoded; and the report of it.

Many of them, and what runs at the same time, are in stream.py; decoding and encoding are in jaxsep/audio.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float

from jaxsep.audio import (
    AudioReader,
    AudioWriter,
    Resampler,
    check_output,
    choose_subtype,
    close_together,
    resampled_length,
)
from jaxsep.errors import JaxsepError, SeparationError
from jaxsep.separation.mixtures import Mixture, ProgressCallback
from jaxsep.separation.models import AnySeparator
from jaxsep.separation.outputs import Job, OutputConfig
from jaxsep.separation.threads import Encoder
from jaxsep.typing import HostSourceWaveform, HostWaveform

Interleaved = Float[np.ndarray, "time source_and_channel"]

# The stems that are written: those selected, and the residual.
Written = Float[np.ndarray, "written time channel"]

# Frames decoded and encoded at a time: small against a chunk, large against the cost of a call.
BLOCK_LENGTH = 1 << 16
# The largest value below full scale of 16-bit samples: what `clip='rescale'` brings the highest peak down to.
FULL_SCALE = 1 - 2**-15


@dataclass(frozen=True)
class StemReport:
    """What was written for one stem.

    Attributes:
        path: The file.
        frames: Samples per channel.
        peak: The largest absolute sample before the file's format limited it; full scale is 1.
        rms: Root mean square over samples and channels.
        clipped: Samples beyond what the file's format holds.
    """

    path: Path
    frames: int
    peak: float
    rms: float
    clipped: int


@dataclass(frozen=True)
class FileReport:
    """What became of one input.

    Attributes:
        mixture: The input.
        sample_rate: Of the stems, in Hz.
        channels: Of the stems.
        subtype: Sample format of the stems.
        duration_seconds: Of the audio that was separated.
        stems: What was written, by stem.
        gain: Multiplied with all stems by `clip='rescale'`; else 1.
        timings: Seconds: 'decode' and 'encode' of this file; and since the file before it was finished, 'compile',
            'compute' (waiting for the device) and 'total'.
        warnings: Sentences about what the listener should know.
    """

    mixture: Path
    sample_rate: int
    channels: int
    subtype: str
    duration_seconds: float
    stems: dict[str, StemReport]
    gain: float
    timings: dict[str, float]
    warnings: tuple[str, ...]


class Track:
    """An input on its way to stems: decoded anew for every pass, to the model's rate, and back to that of the output.

    Opened and read in one thread, written in another.
    """

    def __init__(
        self,
        job: Job,
        separator: AnySeparator,
        config: OutputConfig,
        encoder: Encoder,
        clock: Callable[[], dict[str, float]],
    ) -> None:
        self.job = job
        self._separator, self._config, self._encoder, self._clock = separator, config, encoder, clock
        self._spec = separator.model.spec
        self._seconds = {"decode": 0.0, "encode": 0.0}
        self._stack = ExitStack()
        # What each reading of the input is decoded by; the first one says what the input is.
        self._reader: AudioReader | None = None
        self._opening = Lock()
        self._writers: dict[str, AudioWriter] = {}
        self._failure: Exception | None = None
        self._heard: _Heard | None = None
        self._frames_read = 0
        self._from_model: Resampler | None = None
        self._written = 0
        self._gain = 1.0

    def mixture(self, number: int, progress: ProgressCallback | None) -> Mixture:
        """Returns the input as the separator takes it."""
        # The Wiener filter's temporary file goes where the stems go: the system's own place may be held in memory.
        directory = next(iter(self.job.stems.values())).parent
        self._mixture = Mixture(self._blocks, None, progress, directory, key=number)
        return self._mixture

    def take(self, estimates: HostSourceWaveform) -> None:
        """Writes a block of estimates."""
        if self._failure is not None:
            return
        try:
            # In pieces that stay in a core's cache while they are converted, written and measured.
            for start in range(0, estimates.shape[1], BLOCK_LENGTH):
                self._write_estimates(estimates[:, start : start + BLOCK_LENGTH])
        except (JaxsepError, OSError) as error:
            self._failure = error

    def conclude(self, error: Exception | None) -> FileReport | JaxsepError:
        """Completes the files, or discards them, and says what became of the input."""
        self._failure = self._failure or error
        try:
            if self._failure is not None:
                raise self._failure
            return self._finished()
        except JaxsepError as failure:
            return type(failure)(self._by_name(str(failure)))
        except OSError as failure:  # the disk is full of what is kept on it between two passes
            return SeparationError(f"{self.job.name}: {failure.strerror or failure}.")
        finally:
            self.discard()

    def discard(self) -> None:
        """Gives back what is open; files that are not complete are gone. Can be called again."""
        self._stack.close()

    def _read(self) -> AudioReader:
        return self._stack.enter_context(self._config.open(self.job.mixture))

    def _open(self) -> AudioReader:
        config, job = self._config, self.job
        reader = self._read()
        info, frames = reader.info, reader.frames
        rate = config.sample_rate
        self._output_rate = (
            rate if isinstance(rate, int) else info.sample_rate if rate == "input" else (self._spec.sample_rate)
        )
        self._subtype = choose_subtype(config.format, config.subtype, info.subtype)
        # Refused before any work is what the work would come to refuse.
        check_output(
            config.format,
            self._subtype,
            config.bitrate_kbps,
            self._output_rate,
            info.channels,
            None if frames is None else resampled_length(frames, info.sample_rate, self._output_rate),
        )
        for name, path in job.stems.items():
            writer = AudioWriter(
                path,
                sample_rate=self._output_rate,
                channels=info.channels,
                format=config.format,
                subtype=self._subtype,
                bitrate_kbps=config.bitrate_kbps,
                tags=reader.tags,
                replace=config.existing == "overwrite" or path in job.replaced,
            )
            self._stack.callback(writer.discard)
            self._writers[name] = writer
        self._spool = None
        if config.clip == "rescale":
            directory = next(iter(job.stems.values())).parent
            self._spool = self._stack.enter_context(_Spool(directory, len(job.stems), info.channels))
        if frames is not None:
            self._mixture.length = resampled_length(frames, info.sample_rate, self._spec.sample_rate)
        if config.consistency == "project" or (config.residual_name is not None and config.other_method == "minus"):
            self._heard = _Heard(self._read(), self._output_rate)
        return reader

    def _blocks(self) -> Iterator[HostWaveform]:
        """Reads the input from its beginning; several readings may go on at the same time."""
        with self._opening:
            reader = self._read() if self._reader is not None else self._open()
            self._reader = self._reader or reader
        info = reader.info
        to_model = Resampler(info.sample_rate, self._spec.sample_rate, info.channels)
        blocks, frames = reader.blocks(BLOCK_LENGTH), 0
        while self._failure is None:
            with self._measure("decode"):
                block = next(blocks, None)
                if block is None:
                    break
                frames += len(block)
                self._frames_read = max(self._frames_read, frames)
                resampled = to_model.push(block)
            yield resampled
        yield to_model.finish()

    def _write_estimates(self, estimates: HostSourceWaveform) -> None:
        if self._spec.sample_rate == self._output_rate:
            self._write(estimates)
            return
        if self._from_model is None:
            sources, _, channels = estimates.shape
            self._from_model = Resampler(self._spec.sample_rate, self._output_rate, sources * channels)
        self._write(_by_source(self._from_model.push(_interleaved(estimates)), estimates.shape[2]))

    def _write(self, estimates: HostSourceWaveform) -> None:
        # A round trip between two rates can give a sample too many. Until the mixture has been read to its end, it is
        # longer than what has come out of the model.
        estimates = estimates[:, : self._output_length() - self._written]
        self._written += estimates.shape[1]
        stems = self._stems(estimates)
        if self._spool is not None:
            self._spool.append(stems)
        else:
            self._encode(stems)

    def _encode(self, stems: Written) -> None:
        with self._measure("encode"):
            if self._gain != 1:
                stems = stems * np.float32(self._gain)
            if self._config.clip == "clamp":
                stems = np.clip(stems, -1, 1)
            self._encoder.of_each(AudioWriter.write, self._writers.values(), stems)

    def _finished(self) -> FileReport:
        assert self._reader is not None
        if self._from_model is not None:
            self._write(_by_source(self._from_model.finish(), self._reader.info.channels))
        if self._spool is not None:
            self._gain = min(1.0, FULL_SCALE / self._spool.peak) if self._spool.peak > 0 else 1.0
            for stems in self._spool.blocks():
                self._encode(stems)
        with self._measure("encode"):
            # None gets its name before all are complete, nor without the others.
            self._encoder.of_each(AudioWriter.finish, self._writers.values())
            close_together(list(self._writers.values()))
        info = self._reader.info
        return FileReport(
            mixture=self.job.mixture,
            sample_rate=self._output_rate,
            channels=info.channels,
            subtype=self._subtype,
            duration_seconds=self._frames_read / info.sample_rate,
            stems={
                name: StemReport(self.job.stems[name], writer.frames, writer.peak, writer.rms, writer.clipped)
                for name, writer in self._writers.items()
            },
            gain=self._gain,
            timings={**self._seconds, **self._clock()},
            warnings=self._warnings(self._reader),
        )

    def _warnings(self, reader: AudioReader) -> tuple[str, ...]:
        note = reader.note and f"{reader.note.removesuffix('.')}; --audio-track (audio_track) chooses another."
        return tuple(self._by_name(said) for said in (note, reader.warning) if said)

    def _by_name(self, message: str) -> str:
        """Standard input is read from a file that no one knows."""
        return message.replace(str(self.job.mixture), self.job.name)

    def _output_length(self) -> int:
        assert self._reader is not None
        return resampled_length(self._frames_read, self._reader.info.sample_rate, self._output_rate)

    def _stems(self, estimates: HostSourceWaveform) -> Written:
        """Applies consistency, selects stems and adds the residual."""
        if self._config.other_method == "add" and self._config.consistency == "none":
            chosen = self._selected(estimates)
            return np.concatenate([chosen, (estimates.sum(axis=0) - chosen.sum(axis=0))[None]])
        if self._heard is None:
            return self._selected(estimates)
        with self._measure("decode"):
            mixture = self._heard.next(estimates.shape[1])
        if self._config.consistency == "project":
            estimates = estimates + (mixture - estimates.sum(axis=0)) / np.float32(len(estimates))
        chosen = self._selected(estimates)
        if self._config.residual_name is None:
            return chosen
        return np.concatenate([chosen, (mixture - chosen.sum(axis=0))[None]])

    def _selected(self, estimates: HostSourceWaveform) -> Written:
        names = (name for name in self.job.stems if name != self._config.residual_name)
        indices = [self._separator.stems.index(name) for name in names]
        return estimates if indices == list(range(len(estimates))) else estimates[indices]

    @contextmanager
    def _measure(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[what] += time.perf_counter() - started


class _Heard:
    """The mixture at the rate of the stems, read beside the estimates that belong to it."""

    def __init__(self, reader: AudioReader, sample_rate: int) -> None:
        self._blocks = self._resampled(reader, sample_rate)
        self._waiting = np.zeros((0, reader.info.channels), np.float32)

    def next(self, length: int) -> HostWaveform:
        """Returns the next samples (time, channel)."""
        waiting = [self._waiting]
        while sum(map(len, waiting)) < length and (block := next(self._blocks, None)) is not None:
            waiting.append(block)
        known = np.concatenate(waiting)
        self._waiting = known[length:]
        return known[:length]

    @staticmethod
    def _resampled(reader: AudioReader, sample_rate: int) -> Iterator[HostWaveform]:
        to_output = Resampler(reader.info.sample_rate, sample_rate, reader.info.channels)
        for block in reader.blocks(BLOCK_LENGTH):
            yield to_output.push(block)
        yield to_output.finish()


class _Spool:
    """Stems on disk as float32, for the second pass of `clip='rescale'`; gone when closed.

    Attributes:
        peak: The largest absolute sample so far.
    """

    def __init__(self, directory: Path, stems: int, channels: int) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, prefix=".stems.")
        self._shape = (stems, channels)
        self.peak = 0.0

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: Written) -> None:
        if block.size:
            self.peak = max(self.peak, float(np.abs(block).max()))
            self._file.write(_interleaved(block).tobytes())

    def blocks(self) -> Iterator[Written]:
        stems, channels = self._shape
        self._file.seek(0)
        while data := self._file.read(BLOCK_LENGTH * stems * channels * 4):
            yield _by_source(np.frombuffer(data, np.float32).reshape(-1, stems * channels), channels)


def _interleaved(estimates: HostSourceWaveform) -> Interleaved:
    """(source, time, channel) to (time, source x channel), so that all stems are resampled in one stream."""
    return np.ascontiguousarray(np.moveaxis(estimates, 0, 1)).reshape(estimates.shape[1], -1)


def _by_source(interleaved: Interleaved, channels: int) -> HostSourceWaveform:
    sources = interleaved.shape[1] // channels
    return np.moveaxis(interleaved.reshape(len(interleaved), sources, channels), 1, 0)
