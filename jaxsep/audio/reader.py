"""Reading audio: any stretch of any file as float32 blocks (time, channel), sample-exact, in bounded memory.

How files are decoded is in decoders.py. No resampling, no jax.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from jaxtyping import Float32

from jaxsep.audio.decoders import AudioInfo, Decoder, FFmpegDecoder, open_decoder
from jaxsep.audio.extent import end_of_leading_tags, start_of_trailing_tags
from jaxsep.audio.stated_sizes import find_stated_size
from jaxsep.errors import AudioError

# Edit lists are rounded to milliseconds and encoder delays reach 0.1 s, so a stated duration is only this exact.
_DURATION_TOLERANCE_SECONDS = 0.25

logger = logging.getLogger(__name__)
# What was logged of files, by this process.
_noted: set[str] = set()


def probe(path: str | os.PathLike[str], stream: int | None = None) -> AudioInfo:
    """Returns what a file says of its audio, without decoding it.

    Which of several audio tracks that is, is logged once for each file, as a warning.

    Args:
        path: The file.
        stream: As for `AudioReader`.

    Raises:
        AudioError: The file is missing, empty, or not audio, or has no such stream.
    """
    decoder = open_decoder(Path(path), stream)
    decoder.close()
    if stream is None and (note := _note(decoder)) is not None and note not in _noted:
        _noted.add(note)
        logger.warning("%s", note)
    return decoder.info


def _note(decoder: Decoder) -> str | None:
    """Returns a sentence on which of several audio streams is read, where none was asked for."""
    if decoder.stream_count < 2:
        return None
    return (
        f"{decoder.info.path} holds {decoder.stream_count} audio tracks, and number {decoder.stream + 1} is read, the "
        "one that FFmpeg takes by default."
    )


class AudioReader:
    """Reads a stretch of a file, block by block.

    PCM of n bits is scaled by 2**(1 - n), so that integers of up to 24 bits come back exactly. Of lossy files, the
    encoder's delay is removed wherever the file tells it, as FFmpeg's command line does; the trailing padding of AAC
    stays, since mp4 states its length only to a millisecond.

    An offset into a compressed file that FFmpeg reads costs the decoding of what lies before it: seeking in those is
    not sample-exact.

    Attributes:
        info: Sample rate, channels, length and coding of the file.
        tags: What it says of its song: title, artist and the like, by the names of `jaxsep.audio.tags.TAGS`.
        truncated: The file ends before its header says it would. Known when `blocks` has ended, for some formats
            before.
        warning: One sentence on what was missing or damaged, or None.
        note: One sentence on which of several audio streams is read, where none was asked for, or None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        offset_seconds: float = 0.0,
        duration_seconds: float | None = None,
        stream: int | None = None,
    ) -> None:
        """Opens a file.

        Args:
            path: The file.
            offset_seconds: Where to start, rounded to the nearest frame.
            duration_seconds: How much to read at most, rounded to the nearest frame; None reads to the end.
            stream: Which audio stream of the file, counted from 0: Native Instruments' stem.mp4 holds the mixture and
                four sources. None for the one that is flagged as default, or else the first.

        Raises:
            AudioError: The file is missing, empty or not audio, or the stretch lies outside it.
        """
        if not 0 <= offset_seconds < float("inf"):
            raise AudioError(f"offset_seconds is {offset_seconds}, but must be finite and not negative.")
        if duration_seconds is not None and not duration_seconds > 0:
            raise AudioError(f"duration_seconds is {duration_seconds}, but must be positive.")
        self.truncated = False
        self._closed = False
        self._decoder = open_decoder(Path(path), stream)
        self._stream = self._decoder.stream
        self.warning: str | None = self._decoder.warning
        self.info = self._decoder.info
        self.tags = self._decoder.tags
        rate, total = self.info.sample_rate, self.info.frames
        self._start = round(offset_seconds * rate)
        self._limit: int | None = None
        if duration_seconds is not None and duration_seconds != float("inf"):
            self._limit = round(duration_seconds * rate)
        try:
            if self._limit == 0:
                raise AudioError(f"duration_seconds is {duration_seconds}, less than one sample at {rate} Hz.")
            if total is not None:
                self._check_offset(total)
            missing = _cut_by_its_own_account(self.info.path)
        except BaseException:
            self.close()
            raise
        if missing and self.warning is None:
            self._report_truncated(missing)
        self.note = _note(self._decoder) if stream is None else None

    @property
    def frames(self) -> int | None:
        """How many frames `blocks` gives if the file is whole, or None where only decoding would tell."""
        if self.info.frames is None:
            return None
        rest = self.info.frames - self._start
        return rest if self._limit is None else min(self._limit, rest)

    def blocks(self, length: int) -> Iterator[Float32[np.ndarray, "time channel"]]:
        """Yields the stretch in blocks of exactly `length` frames, the last one shorter; each call starts anew.

        Args:
            length: Frames per block.

        Raises:
            AudioError: The file cannot be decoded, holds no sample in the stretch, or holds NaN or infinity.
        """
        if length < 1:
            raise ValueError(f"length is {length}, but a block has at least one frame")
        if self._closed:
            raise ValueError(f"{self.info.path} is closed")
        delivered = 0
        for block in _regroup(self._decode(length), length, self._limit, self.info.channels):
            self._check_finite(block, self._start + delivered)
            delivered += len(block)
            yield block
        if self._decoder.damaged_packets and not self.truncated:
            count = self._decoder.damaged_packets
            packets = "one packet" if count == 1 else f"{count} packets"
            self.warning = f"{self.info.path} is damaged: {packets} could not be decoded."
        if self._limit is None or delivered < self._limit:
            self._check_the_end(delivered)

    def close(self) -> None:
        """Gives the file back. Can be called again."""
        self._closed = True
        self._decoder.close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, length: int) -> Iterator[np.ndarray]:
        position = self._start
        try:
            for chunk in self._decoder.chunks(self._start, length):
                position += len(chunk)
                yield chunk
        except soundfile.LibsndfileError as error:
            # libsndfile drops a whole read when flac ends too early; FFmpeg gives every frame that is there.
            self._decoder.close()
            try:
                self._decoder = FFmpegDecoder(self.info.path, self._stream)
                found = self._decoder.info
                if (found.sample_rate, found.channels) != (self.info.sample_rate, self.info.channels):
                    raise AudioError("They do not agree on what it is.")
            except AudioError:
                raise AudioError(f"{self.info.path} cannot be decoded: {error.error_string}") from None
            self._report_truncated("libsndfile cannot decode all of it")
            yield from self._decoder.chunks(position, length)

    def _check_offset(self, total: int) -> None:
        if self._start >= total:
            raise AudioError(
                f"The offset of {self._start / self.info.sample_rate:.3f} s lies beyond the end of {self.info.path}, "
                f"which lasts {total / self.info.sample_rate:.3f} s."
            )

    def _check_the_end(self, delivered: int) -> None:
        """Called when the file ended before the wanted stretch did, or where it was to be read to its end."""
        rate, expected, stated = self.info.sample_rate, self.info.frames, self._decoder.stated_seconds
        if delivered == 0:
            if self._start:
                raise AudioError(
                    f"The offset of {self._start / rate:.3f} s lies beyond the last sample that {self.info.path} holds."
                )
            raise AudioError(f"{self.info.path} holds no samples that can be decoded; is it cut short?")
        read = self._start + delivered
        if expected is not None and read < expected:
            self._report_truncated(f"its header promises {expected / rate:.3f} s, and it holds {read / rate:.3f} s")
        promised = expected if expected is not None else self._decoder.counted_frames
        if promised is not None and read > promised:
            # Joined mp3 files carry the header of the first.
            self.warning = (
                f"The header of {self.info.path} promises {promised / rate:.3f} s, but it holds "
                f"{read / rate:.3f} s, and all of it was read."
            )
        if expected is None and stated is not None and read / rate < stated - _DURATION_TOLERANCE_SECONDS:
            self._report_truncated(f"its header promises {stated:.3f} s, and it holds {read / rate:.3f} s")

    def _report_truncated(self, reason: str) -> None:
        self.truncated = True
        self.warning = f"{self.info.path} is cut short or damaged: {reason}."

    def _check_finite(self, block: np.ndarray, first_frame: int) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            frame, channel = np.argwhere(~finite)[0]
            seconds = (first_frame + frame) / self.info.sample_rate
            raise AudioError(
                f"{self.info.path} holds {block[frame, channel]} at {seconds:.6f} s in channel {channel + 1}; "
                "audio must be finite: export the file again."
            )


def _regroup(chunks: Iterator[np.ndarray], length: int, limit: int | None, channels: int) -> Iterator[np.ndarray]:
    """Cuts and joins chunks of any size to blocks of `length`, `limit` frames in all."""
    block = np.empty((0, channels), np.float32)
    filled = 0
    for chunk in chunks:
        if limit is not None:
            chunk = chunk[:limit]
            limit -= len(chunk)
        if filled == 0 and len(chunk) == length:
            yield chunk
        else:
            while len(chunk):
                if filled == 0:
                    block = np.empty((length, channels), np.float32)
                taken = min(len(chunk), length - filled)
                block[filled : filled + taken] = chunk[:taken]
                chunk = chunk[taken:]
                filled += taken
                if filled == length:
                    yield block
                    filled = 0
        if limit == 0:
            break
    if filled:
        yield block[:filled]


def _cut_by_its_own_account(path: Path) -> str:
    """Says in what way the file is shorter than its first or last bytes say, or '' where nothing shows that."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = end_of_leading_tags(file)
        file.seek(start)
        head = file.read(8)
        if head[:4] in (b"RIFF", b"RIFX", b"FORM"):
            promised = start + int.from_bytes(head[4:], "little" if head[:4] == b"RIFF" else "big") + 8
            # Programs that write to a pipe know no size and put zero or the largest they can, of 31 or 32 bits. A
            # chunk of an odd size may lack the byte that pads it.
            if size + 1 < promised < 0x7FFF0000:
                return f"its header promises {promised} bytes, and it has {size}"
        end = start_of_trailing_tags(file)
        sized = find_stated_size(file, start, end)
        if sized is not None and sized.stated is not None and size < (promised := sized.first + sized.stated):
            return f"its header promises {promised} bytes, and it has {size}"
        if head[:4] == b"OggS":
            file.seek(max(0, end - 65536))  # longer than the longest page
            tail = file.read(min(end, 65536))
            page = tail.rfind(b"OggS")
            if page < 0 or len(tail) < page + 6 or not tail[page + 5] & 4:  # bit 2: last page of its stream
                return "its last page is missing"
    return ""
