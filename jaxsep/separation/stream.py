"""A file of any length through the Separator: read, separated and written in a moving window, memory bounded.

What is written where is planned in outputs.py; decoding and encoding are in jaxsep/audio.
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxsep.audio import AudioInfo, AudioReader, AudioWriter, Resampler, check_output, choose_subtype, resampled_length
from jaxsep.errors import ConfigError
from jaxsep.separation.outputs import Job, OutputConfig, plan
from jaxsep.separation.separator import ProgressCallback, Separator, from_model_channels, to_model_channels
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
        timings: Seconds spent decoding, compiling, waiting for the computation, encoding, and in all.
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


def separate_file(
    mixture: str | Path,
    directory: str | Path = "separated",
    *,
    separator: Separator | None = None,
    config: OutputConfig | None = None,
    progress: ProgressCallback | None = None,
) -> FileReport:
    """Separates a file into stems.

    Args:
        mixture: An audio or video file.
        directory: Where the stems go; created if it is not there.
        separator: What separates; None for the bundled 2-stem model.
        config: How the stems are written; None for wav files that follow the input.
        progress: Called after every chunk.

    Returns:
        What was written. Files have their final names only when all stems are complete.

    Raises:
        ConfigError: If the options do not fit together, or a file is in the way.
        AudioError: If the input cannot be read or an output cannot be written.
        SeparationError: If the model gives samples that are not finite.
        SeparationAborted: If `progress` returned False.
    """
    separator = Separator.from_pretrained("spleeter-2stems") if separator is None else separator
    config = OutputConfig() if config is None else config
    (job,) = plan([Path(mixture)], Path(directory), separator.stems, config)
    if job.skipped:
        raise ConfigError(f"All stems of '{mixture}' are in '{directory}' already.")
    return run_job(job, separator, config, progress=progress)


def run_job(
    job: Job, separator: Separator, config: OutputConfig, *, progress: ProgressCallback | None = None
) -> FileReport:
    """Separates the input of a planned job into its files; see `separate_file`."""
    if config.consistency == "project" and separator.stems != separator.model.spec.stems:
        raise ConfigError(
            "Consistency 'project' needs all the model's stems; give the separator no selection of stems."
        )
    first = next(iter(job.stems.values()))
    clock = _Clock(separator)
    with ExitStack() as stack:
        track = stack.enter_context(_Track(job, separator, config, clock))
        writers = {
            name: stack.enter_context(
                AudioWriter(
                    path,
                    sample_rate=track.output_rate,
                    channels=track.info.channels,
                    format=config.format,
                    subtype=track.subtype,
                    bitrate_kbps=config.bitrate_kbps,
                )
            )
            for name, path in job.stems.items()
        }
        gain = 1.0
        blocks = track.stems(progress)
        if config.clip == "rescale":
            spool = stack.enter_context(_Spool(first.parent, len(writers), track.info.channels))
            for block in blocks:
                spool.append(block)
            gain = min(1.0, FULL_SCALE / spool.peak) if spool.peak > 0 else 1.0
            blocks = spool.blocks()
        # Encoders release the interpreter's lock: mp3 of two stems takes little longer than of one.
        encoders = stack.enter_context(ThreadPoolExecutor(len(writers)))
        for block in blocks:
            with clock.measure("encode"):
                if gain != 1:
                    block = block * np.float32(gain)
                if config.clip == "clamp":
                    block = np.clip(block, -1, 1)
                list(encoders.map(AudioWriter.write, writers.values(), block))
        with clock.measure("encode"):
            # None gets its name before all are complete.
            list(encoders.map(AudioWriter.finish, writers.values()))
            for writer in writers.values():
                writer.close()
    return FileReport(
        mixture=job.mixture,
        sample_rate=track.output_rate,
        channels=track.info.channels,
        subtype=track.subtype,
        duration_seconds=track.frames_read / track.info.sample_rate,
        stems={
            name: StemReport(job.stems[name], writer.frames, writer.peak, writer.rms, writer.clipped)
            for name, writer in writers.items()
        },
        gain=gain,
        timings=clock.timings(),
        warnings=track.warnings,
    )


class _Track:
    """An input on its way to stems: decoded anew for every pass, to the model's rate and channels, and back again."""

    def __init__(self, job: Job, separator: Separator, config: OutputConfig, clock: "_Clock") -> None:
        self._separator, self._config, self._clock = separator, config, clock
        self._reader = AudioReader(
            job.mixture, offset_seconds=config.offset_seconds, duration_seconds=config.duration_seconds
        )
        self.info: AudioInfo = self._reader.info
        try:
            self._spec = separator.model.spec
            self.output_rate = self._output_rate()
            self.subtype = choose_subtype(config.format, config.subtype, self.info.subtype)
            self._check()
        except BaseException:
            self._reader.close()
            raise
        # The Wiener filter's temporary file goes where the stems go: the system's own place may be held in memory.
        self._spool_directory = next(iter(job.stems.values())).parent
        self._stem_names = tuple(name for name in job.stems if name != config.residual_name)
        self._needs_mixture = config.consistency == "project" or config.residual_name is not None
        self._restart()

    def __enter__(self) -> "_Track":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader found wrong with the file."""
        return (self._reader.warning,) if self._reader.warning else ()

    def stems(self, progress: ProgressCallback | None) -> Iterator[Written]:
        """Yields blocks (source, time, channel) of the stems to be written, at the output's rate and channels."""
        frames = self._reader.frames
        length = None if frames is None else resampled_length(frames, self.info.sample_rate, self._spec.sample_rate)
        estimates = self._separator.stream(
            self._model_blocks, length=length, progress=progress, spool_directory=self._spool_directory
        )
        channels = self.info.channels
        # In pieces that stay in a core's cache while they are converted, written and measured.
        pieces = (
            block[:, start : start + BLOCK_LENGTH]
            for block in estimates
            for start in range(0, block.shape[1], BLOCK_LENGTH)
        )
        own_channels = (from_model_channels(piece, channels) for piece in pieces)
        written = 0
        for block in _resampled(own_channels, self._spec.sample_rate, self.output_rate):
            # A round trip between two rates can give a sample too many. Until the mixture has been read to its end, it
            # is longer than what has come out of the model.
            block = block[:, : self._output_length() - written]
            written += block.shape[1]
            yield self._finished(block)

    def _model_blocks(self) -> Iterator[HostWaveform]:
        self._restart()
        to_model = Resampler(self.info.sample_rate, self._spec.sample_rate, self.info.channels)
        blocks = self._reader.blocks(BLOCK_LENGTH)
        while True:
            with self._clock.measure("decode"):
                block = next(blocks, None)
                if block is None:
                    break
                self.frames_read += len(block)
                if self._needs_mixture:
                    self._mixture.push(self._to_output.push(block))
                resampled = to_model.push(block)
            yield to_model_channels(resampled, self._spec.channels)
        if self._needs_mixture:
            self._mixture.push(self._to_output.finish())
        yield to_model_channels(to_model.finish(), self._spec.channels)

    def _restart(self) -> None:
        self.frames_read = 0
        self._mixture = _Queue(self.info.channels)
        self._to_output = Resampler(self.info.sample_rate, self.output_rate, self.info.channels)

    def _output_length(self) -> int:
        return resampled_length(self.frames_read, self.info.sample_rate, self.output_rate)

    def _finished(self, estimates: HostSourceWaveform) -> Written:
        """Applies consistency, selects stems and adds the residual."""
        if not self._needs_mixture:
            return self._selected(estimates)
        mixture = self._mixture.pop(estimates.shape[1])
        if self._config.consistency == "project":
            estimates = estimates + (mixture - estimates.sum(axis=0)) / np.float32(len(estimates))
        chosen = self._selected(estimates)
        if self._config.residual_name is None:
            return chosen
        return np.concatenate([chosen, (mixture - chosen.sum(axis=0))[None]])

    def _selected(self, estimates: HostSourceWaveform) -> Written:
        indices = [self._separator.stems.index(name) for name in self._stem_names]
        return estimates if indices == list(range(len(estimates))) else estimates[indices]

    def _output_rate(self) -> int:
        rate = self._config.sample_rate
        if isinstance(rate, int):
            return rate
        return self.info.sample_rate if rate == "input" else self._spec.sample_rate

    def _check(self) -> None:
        """Refuses before any work what the work would come to refuse."""
        frames = self._reader.frames
        to_model_channels(np.zeros((1, self.info.channels), np.float32), self._spec.channels)
        check_output(
            self._config.format,
            self.subtype,
            self._config.bitrate_kbps,
            self.output_rate,
            self.info.channels,
            None if frames is None else resampled_length(frames, self.info.sample_rate, self.output_rate),
        )


class _Queue:
    """Samples (time, channel) waiting for the estimates that belong to them."""

    def __init__(self, channels: int) -> None:
        self._waiting = [np.zeros((0, channels), np.float32)]

    def push(self, block: HostWaveform) -> None:
        self._waiting.append(block)

    def pop(self, length: int) -> HostWaveform:
        waiting = np.concatenate(self._waiting)
        self._waiting = [waiting[length:]]
        return waiting[:length]


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


class _Clock:
    """Adds up where the seconds go."""

    def __init__(self, separator: Separator) -> None:
        self._separator = separator
        self._compile, self._wait = separator.compile_seconds, separator.wait_seconds
        self._started = time.perf_counter()
        self._seconds = {"decode": 0.0, "encode": 0.0}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[what] += time.perf_counter() - started

    def timings(self) -> dict[str, float]:
        return {
            "decode": self._seconds["decode"],
            "compile": self._separator.compile_seconds - self._compile,
            "compute": self._separator.wait_seconds - self._wait,
            "encode": self._seconds["encode"],
            "total": time.perf_counter() - self._started,
        }


def _resampled(blocks: Iterator[HostSourceWaveform], from_rate: int, to_rate: int) -> Iterator[HostSourceWaveform]:
    """Converts all sources in one stream."""
    if from_rate == to_rate:
        yield from blocks
        return
    resampler, channels = None, 0
    for block in blocks:
        if resampler is None:
            channels = block.shape[2]
            resampler = Resampler(from_rate, to_rate, block.shape[0] * channels)
        yield _by_source(resampler.push(_interleaved(block)), channels)
    if resampler is not None:
        yield _by_source(resampler.finish(), channels)


def _interleaved(estimates: HostSourceWaveform) -> Interleaved:
    """(source, time, channel) to (time, source x channel), so that all stems are resampled in one stream."""
    return np.ascontiguousarray(np.moveaxis(estimates, 0, 1)).reshape(estimates.shape[1], -1)


def _by_source(interleaved: Interleaved, channels: int) -> HostSourceWaveform:
    sources = interleaved.shape[1] // channels
    return np.moveaxis(interleaved.reshape(len(interleaved), sources, channels), 1, 0)
