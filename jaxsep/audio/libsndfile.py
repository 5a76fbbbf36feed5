"""Decoding by libsndfile: wav, aiff, flac, Ogg Vorbis and other formats that state their length.

Which decoder a file gets is in decoders.py.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.audio.channel_order import from_vorbis
from jaxsep.audio.extent import FilePart, end_of_leading_tags, start_of_trailing_tags
from jaxsep.audio.info import AudioInfo
from jaxsep.audio.riff import SampleBytes, find_samples
from jaxsep.audio.stated_sizes import find_stated_size
from jaxsep.audio.tags import clean_tags

# Codings whose samples can be read without a header, by the size of a sample.
_RAW_BYTES = {
    "PCM_S8": 1,
    "PCM_U8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}


class LibsndfileDecoder:
    """Decoding by libsndfile, which knows the count of frames and seeks exactly.

    Attributes:
        info: Sample rate, channels, length and coding of the file.
        tags: Title, artist and the like of the song, as the file states them.
        warning: One sentence on sizes in the header that cannot be true, or None.
        stream_count: Number of audio streams: one.
    """

    damaged_packets = 0
    stated_seconds = None
    counted_frames = None
    stream = 0
    stream_count = 1

    def __init__(self, path: Path) -> None:
        """Opens a file.

        Args:
            path: The file.

        Raises:
            soundfile.LibsndfileError: libsndfile does not read it.
        """
        self.warning: str | None = None
        with path.open("rb") as file:
            start, end = end_of_leading_tags(file), start_of_trailing_tags(file)
            samples = find_samples(file, start, end)
            size = file.seek(0, 2)
            # Without a name, which need not be valid in any encoding; libsndfile guesses nothing from its ending.
            stated = find_stated_size(file, start, end)
        if samples is not None and len(samples.ranges) > 1:
            size = samples.ranges[0][1]  # of several chunks of samples libsndfile refuses the second
        end, mended = (size, {}) if stated is None else (stated.end, {stated.place: stated.content})
        self._part_again = partial(FilePart, path, [(start, end)], mended)
        self._open(self._part_again())
        self.tags = clean_tags(self._file.copy_metadata())
        if samples is not None and not samples.as_stated:
            self._read_past_the_header(path, samples)
        frames, rate = self._file.frames, self._file.samplerate
        if stated is not None and stated.stated is not None and stated.goes_on:
            seconds = frames / rate
            self.warning = _told_of_more(path, seconds * stated.stated / (stated.last - stated.first), seconds)
        self.info = AudioInfo(
            path=path,
            sample_rate=rate,
            channels=self._file.channels,
            frames=frames,
            duration_seconds=frames / rate,
            format=self._format,
            subtype=self._subtype,
        )
        self._order = from_vorbis(self._file.channels) if self._subtype == "VORBIS" else None

    @property
    def known_length(self) -> bool:
        """Whether there are samples, and libsndfile knows how many: it gives the largest count where it does not."""
        return 0 < self._file.frames < 2**62

    def chunks(self, start: int, length: int) -> Iterator[np.ndarray]:
        """Yields float32 (time, channel) from frame `start` to the end, `length` frames at a time."""
        if self._file.seekable():
            self._file.seek(start)
        else:  # a coding of which the whole way is to be decoded
            self.close()
            self._open(self._part_again())
            while start and (skipped := len(self._file.read(min(start, length)))):
                start -= skipped
        while len(chunk := self._file.read(length, dtype="float32", always_2d=True)):
            yield chunk if self._order is None else chunk[:, self._order]

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()
        self._part.close()

    def _open(self, part: FilePart, **raw: object) -> None:
        self._part = part
        try:
            self._file = soundfile.SoundFile(part, **raw)
        except BaseException:
            part.close()
            raise
        if not raw:
            self._format, self._subtype = self._file.format, self._file.subtype

    def _read_past_the_header(self, path: Path, samples: SampleBytes) -> None:
        """Reads what the sizes in the header leave out, where the coding is that of samples one by one; or says so."""
        rate, channels = self._file.samplerate, self._file.channels
        size = _RAW_BYTES.get(self._subtype, 0) * channels
        stated = samples.stated
        if size == 0 or samples.bytes_per_frame not in (None, size):
            if stated is not None:
                self.warning = (
                    f"{path} goes on for {samples.size - stated} bytes behind the samples that its header tells of, "
                    "and they were not read."
                )
            return
        little = samples.little_endian or self._file.endian == "LITTLE"
        self.close()
        self._open(
            FilePart(path, samples.ranges),
            samplerate=rate,
            channels=channels,
            format="RAW",
            subtype=self._subtype,
            endian="LITTLE" if little else "BIG",
        )
        if stated is not None:
            self.warning = _told_of_more(path, stated / size / rate, samples.size // size / rate)


def _told_of_more(path: Path, stated_seconds: float, seconds: float) -> str:
    return (
        f"The header of {path} promises {stated_seconds:.3f} s, but its samples go on, and all {seconds:.3f} s of them "
        "were read."
    )
