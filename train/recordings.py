"""Recordings: what a data set holds of a song, whatever it is stored in, and those whose parts are audio files.

Which parts make up which stem of a model is in tracks.py.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxsep.audio.decoders import AudioInfo
from jaxsep.audio.reader import AudioReader, probe
from jaxsep.errors import AudioError
from train.problems import Problems

# What the file of the mixture is called among the parts of a recording.
MIXTURE = "mixture"

Parts = Float32[np.ndarray, "part time channel"]

# Containers whose stated duration is exact enough to draw places from: of mp4 to a millisecond, of Ogg to the sample.
_STATE_THEIR_LENGTH = ("MOV", "MATROSKA", "OGG")
# What the end of a file may fall short of such a duration: edit lists and encoder delays. Silence stands for it.
_TOLERANCE_SECONDS = 0.25
_BLOCK = 1 << 16


class Recording(abc.ABC):
    """A song as a data set holds it: named parts of one length, and perhaps its mixture.

    Attributes:
        name: Name of the song.
        parts: Names of the parts, the mixture not among them.
        has_mixture: Whether the mixture is there as a file; it is read by the name 'mixture'.
        length: Samples of the longest part; the others are silent thereafter.
        sample_rate: Of all parts, in Hz; of the first where they differ.
        channels: As for `sample_rate`.
        seekable: Whether a place in the middle is as near as the beginning.
    """

    name: str
    parts: tuple[str, ...]
    has_mixture: bool
    length: int
    sample_rate: int
    channels: int
    seekable: bool = True

    @abc.abstractmethod
    def read(self, parts: Sequence[str], start: int, length: int) -> Parts:
        """Returns a stretch of some of the parts, or of the mixture.

        Args:
            parts: Their names.
            start: The first sample.
            length: Samples; what lies beyond the end is silent.

        Raises:
            AudioError: It cannot be read.
        """

    def strangers(self, sample_rate: int, channels: int) -> list[str]:
        """Returns what is not of this rate and number of channels, each with what it is instead."""
        if (self.sample_rate, self.channels) == (sample_rate, channels):
            return []
        return [_tell_format(self.name, self.sample_rate, self.channels)]

    @property
    def unequal_lengths(self) -> str:
        """How long each part is, where they differ; else ''."""
        return ""

    def describe_part(self, part: str) -> str:
        """Returns where a part, or the mixture, is to be found."""
        return f"'{part}' of the track '{self.name}'"


@dataclass(frozen=True)
class AudioFile:
    """An audio stream of a file.

    Attributes:
        path: The file.
        stream: Number of the audio stream, counted from 0; None for the default one.
    """

    path: Path
    stream: int | None = None

    @cached_property
    def info(self) -> AudioInfo:
        """What its header says."""
        return probe(self.path, self.stream)

    @cached_property
    def length(self) -> int:
        """Samples: as the header counts or states them; counted where it does neither."""
        info = self.info
        if info.frames is not None:
            return info.frames
        if info.format in _STATE_THEIR_LENGTH and info.duration_seconds is not None:
            return round(info.duration_seconds * info.sample_rate)
        with AudioReader(self.path, stream=self.stream) as reader:
            return sum(len(block) for block in reader.blocks(_BLOCK))

    @property
    def seekable(self) -> bool:
        """Whether its middle can be read without its beginning."""
        return self.info.frames is not None and self.info.format != "MP3"

    def read_into(self, out: Float32[np.ndarray, "time channel"], start: int) -> None:
        """Fills an array with what there is from a sample on, and leaves the rest of it as it is.

        Raises:
            AudioError: The file cannot be read, is damaged, or ends before it should.
        """
        wanted = min(len(out), self.length - start)
        if wanted <= 0:
            return
        try:
            filled = self._decode_into(out[:wanted], start)
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {error.strerror or error}.") from None
        tolerance = _TOLERANCE_SECONDS * self.info.sample_rate
        if filled < wanted and start + filled < self.length - tolerance:
            rate = self.info.sample_rate
            raise AudioError(f"{self.path} ends at {(start + filled) / rate:.3f} s, before {self.length / rate:.3f} s.")

    def _decode_into(self, out: np.ndarray, start: int) -> int:
        """Returns how much of it there was."""
        rate, filled = self.info.sample_rate, 0
        with AudioReader(
            self.path, offset_seconds=start / rate, duration_seconds=len(out) / rate, stream=self.stream
        ) as reader:
            warned = reader.warning
            try:
                for block in reader.blocks(len(out)):
                    out[filled : filled + len(block)] = block
                    filled += len(block)
            except AudioError:
                # A stated length may reach a little beyond the last sample.
                if reader.info.frames is not None or start + _TOLERANCE_SECONDS * rate < self.length:
                    raise
            if reader.warning not in (None, warned):
                raise AudioError(str(reader.warning))
        return filled


class FileRecording(Recording):
    """A recording whose parts are audio files, or streams of one."""

    def __init__(self, name: str, files: Mapping[str, AudioFile]) -> None:
        """Reads the headers of the files.

        Args:
            name: Name of the song.
            files: By part; the mixture, if there is one, by the name 'mixture'.

        Raises:
            AudioError: A file is not audio.
        """
        self.name = name
        self.files = dict(files)
        self.has_mixture = MIXTURE in files
        self.parts = tuple(part for part in files if part != MIXTURE)
        first = next(iter(files.values()))
        self.sample_rate, self.channels = first.info.sample_rate, first.info.channels
        self.seekable = all(file.seekable for file in files.values())
        self.length = max(file.length for file in files.values())

    def read(self, parts: Sequence[str], start: int, length: int) -> Parts:
        """See `Recording.read`."""
        audio = np.zeros((len(parts), length, self.channels), np.float32)
        for out, part in zip(audio, parts, strict=True):
            self.files[part].read_into(out, start)
        return audio

    def strangers(self, sample_rate: int, channels: int) -> list[str]:
        """See `Recording.strangers`."""
        return [
            _tell_format(str(file.path), file.info.sample_rate, file.info.channels)
            for file in self.files.values()
            if (file.info.sample_rate, file.info.channels) != (sample_rate, channels)
        ]

    @property
    def unequal_lengths(self) -> str:
        """See `Recording.unequal_lengths`."""
        lengths = {part: file.length for part, file in self.files.items()}
        exact = all(file.info.frames is not None for file in self.files.values())
        tolerance = 0 if exact else _TOLERANCE_SECONDS * self.sample_rate
        if max(lengths.values()) - min(lengths.values()) <= tolerance:
            return ""
        return ", ".join(f"{part} {length}" for part, length in lengths.items())

    def describe_part(self, part: str) -> str:
        """See `Recording.describe_part`."""
        file = self.files[part]
        return f"{file.path} (stream {file.stream})" if file.stream else str(file.path)


def open_recording(name: str, files: Mapping[str, AudioFile], problems: Problems) -> FileRecording | None:
    """Returns a recording whose files can all be opened; None where not, and each of those is a problem.

    Args:
        name: Name of the song.
        files: See `FileRecording`.
        problems: What is met is put aside there.
    """
    before = len(problems)
    for file in files.values():
        with problems.noted():
            _ = file.length
    return FileRecording(name, files) if len(problems) == before else None


def some_of(names: Sequence[str]) -> str:
    """Returns the first three names, and how many more there are."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def warn_of_lengths(recordings: Sequence[Recording]) -> list[str]:
    """Returns a sentence where parts differ in length."""
    unequal = [f"{each.name} ({each.unequal_lengths})" for each in recordings if each.unequal_lengths]
    return [f"Parts differ in length, in samples: {some_of(unequal)}; silence fills them up."] if unequal else []


def _tell_format(name: str, sample_rate: int, channels: int) -> str:
    return f"{name} ({sample_rate} Hz, {channels} channel{'s' * (channels != 1)})"
