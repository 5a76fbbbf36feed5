"""The two decoders, libsndfile and FFmpeg (through PyAV), behind one interface, and the choice between them.

What a reader does with their samples (stretches, blocks, checks) is in reader.py.
"""

import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from jaxsep.audio.tags import clean_tags
from jaxsep.errors import AudioError

# What libsndfile reads best, by the first bytes of the file: a name's ending says nothing certain. Mp3 is not among
# them: FFmpeg gives the same samples (to 2e-6, delay and padding removed) as fast, goes on after damage where libmpg123
# gives up, and keeps standard error clean, on which libmpg123 writes notes that no setting of libsndfile stops.
_LIBSNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"caff", b".snd", b"NIST")
_HEAD_BYTES = 64
# libsndfile gives the largest count that there is where it knows none.
_UNKNOWN_FRAMES = 2**62

# Containers whose header states how long the audio is; in all others FFmpeg estimates a duration from the bitrate.
_CONTAINERS_WITH_DURATION = ("mov", "matroska")

_LIBSNDFILE_WORDS = {
    "mp1": "MPEG_LAYER_I",
    "mp2": "MPEG_LAYER_II",
    "mp3": "MPEG_LAYER_III",
    "pcm_u8": "PCM_U8",
    "pcm_s8": "PCM_S8",
    "pcm_s16le": "PCM_16",
    "pcm_s16be": "PCM_16",
    "pcm_s24le": "PCM_24",
    "pcm_s24be": "PCM_24",
    "pcm_s32le": "PCM_32",
    "pcm_s32be": "PCM_32",
    "pcm_f32le": "FLOAT",
    "pcm_f32be": "FLOAT",
    "pcm_f64le": "DOUBLE",
    "pcm_f64be": "DOUBLE",
}
_LOSSLESS_CODECS = ("flac", "wavpack", "ape", "tta", "tak", "shorten", "truehd", "mlp")


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of its audio.

    Attributes:
        path: Where the file lies.
        sample_rate: In Hz.
        channels: Of the (first) audio stream.
        frames: The exact count of samples per channel (for mp3, what its header says), or None where only decoding
            would tell.
        duration_seconds: `frames / sample_rate` where that is known, else what the container states or lets estimate,
            else None.
        format: The container: libsndfile's word ('WAV', 'FLAC', 'OGG'), or FFmpeg's in capitals ('MP3', 'MOV',
            'MATROSKA').
        subtype: The coding: libsndfile's word where it has one ('PCM_16', 'FLOAT', 'VORBIS', 'MPEG_LAYER_III'), else
            FFmpeg's codec name in capitals ('AAC', 'OPUS').
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int | None
    duration_seconds: float | None
    format: str
    subtype: str


class LibsndfileDecoder:
    """Decoding by libsndfile, which knows the count of frames and seeks exactly.

    Attributes:
        info: What the file says of its audio.
        tags: What it says of its song.
    """

    damaged_packets = 0
    stated_seconds = None

    def __init__(self, path: Path) -> None:
        # By descriptor: the name need not be valid in any encoding, and libsndfile guesses nothing from its ending.
        self._descriptor: BinaryIO = path.open("rb")
        try:
            self._file = soundfile.SoundFile(self._descriptor.fileno(), closefd=False)
        except BaseException:
            self._descriptor.close()
            raise
        frames, rate = self._file.frames, self._file.samplerate
        self.info = AudioInfo(
            path=path,
            sample_rate=rate,
            channels=self._file.channels,
            frames=frames,
            duration_seconds=frames / rate,
            format=self._file.format,
            subtype=self._file.subtype,
        )
        self.tags = clean_tags(self._file.copy_metadata())

    def chunks(self, start: int, length: int) -> Iterator[np.ndarray]:
        """Yields float32 (time, channel) from frame `start` to the end, `length` frames at a time."""
        self._file.seek(start)
        while len(chunk := self._file.read(length, dtype="float32", always_2d=True)):
            yield chunk

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()
        self._descriptor.close()


class FFmpegDecoder:
    """Decoding by FFmpeg, which knows what a packet holds when it has decoded it.

    Attributes:
        info: What the file says of its audio.
        tags: What it says of its song.
        stated_seconds: The duration that the header states and that is not exact, or None where it states none.
        damaged_packets: How many the last run of `chunks` could not decode.
    """

    def __init__(self, path: Path, stream: int = 0) -> None:
        self._path, self._stream = path, stream
        self.damaged_packets = 0
        with closing(_Container(path, stream)) as container:
            found = container.stream
            codec = found.codec_context
            name = container.format_name
            seconds = float(container.duration_seconds) if container.duration_seconds else None
            if found.duration is not None and found.time_base is not None:
                seconds = float(found.duration * found.time_base)
            frames = None
            if name == "mp3" and seconds is not None and _counts_its_frames(path):
                frames = round(found.duration * found.time_base * codec.sample_rate)
            alone = found.duration is not None or container.stream_count == 1
            self.stated_seconds = seconds if name in _CONTAINERS_WITH_DURATION and alone else None
            self.info = AudioInfo(
                path=path,
                sample_rate=codec.sample_rate,
                channels=codec.layout.nb_channels,
                frames=frames,
                duration_seconds=seconds,
                format=name.upper(),
                subtype=_subtype(codec),
            )
            self.tags = clean_tags(container.tags)

    def chunks(self, start: int, length: int) -> Iterator[np.ndarray]:
        """Yields float32 (time, channel) from frame `start` to the end, as much as each packet holds."""
        del length
        import av.error

        self.damaged_packets = 0
        with closing(_Container(self._path, self._stream)) as container:
            packets = container.packets()
            while True:
                try:
                    packet = next(packets, None)
                except av.error.FFmpegError:
                    return  # the container ends in the middle of something
                if packet is None:
                    return
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    self.damaged_packets += 1
                    continue
                for frame in frames:
                    if start >= frame.samples:
                        start -= frame.samples
                        continue
                    samples = self._samples(frame)
                    yield samples[start:]
                    start = 0

    def close(self) -> None:
        """Does nothing: each call of `chunks` opens the file for itself and closes it."""

    def _samples(self, frame: Any) -> np.ndarray:
        channels = frame.layout.nb_channels
        if (frame.sample_rate, channels) != (self.info.sample_rate, self.info.channels):
            raise AudioError(
                f"{self._path} changes from {self.info.sample_rate} Hz and {self.info.channels} channels to "
                f"{frame.sample_rate} Hz and {channels} in its middle; convert it to one format first."
            )
        array = frame.to_ndarray()
        array = array.T if frame.format.is_planar else array.reshape(-1, channels)
        if array.dtype.kind == "f":
            return array.astype(np.float32, copy=False)
        bits = 8 * array.dtype.itemsize
        # Both steps are exact up to 24 bits: codecs of 24 bits fill the upper bits of 32.
        scaled = array.astype(np.float32) * np.float32(2.0 ** (1 - bits))
        return scaled - np.float32(1) if array.dtype.kind == "u" else scaled


Decoder = LibsndfileDecoder | FFmpegDecoder


def open_decoder(path: Path, stream: int = 0) -> Decoder:
    """Opens a file with the decoder that fits its first bytes.

    Args:
        path: The file.
        stream: Which of its audio streams, counted from 0.

    Raises:
        AudioError: The file is missing, empty, or not audio, or has no such stream.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{path} is a directory; name an audio file.")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{path} is not a regular file; audio is read from files only.")
        if status.st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes).")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise AudioError(f"There is no file {path}.") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be opened: {error.strerror}.") from None
    except ValueError as error:
        raise AudioError(f"{str(path)!r} is not a file name: {error}.") from None
    known_to_libsndfile = head.startswith(_LIBSNDFILE_MAGIC) or (head.startswith(b"OggS") and b"\x01vorbis" in head)
    if known_to_libsndfile and stream == 0:
        with suppress(soundfile.LibsndfileError):  # a coding that it does not know: FFmpeg may
            decoder = LibsndfileDecoder(path)
            known = 0 < (decoder.info.frames or 0) < _UNKNOWN_FRAMES
            if known and not decoder.info.subtype.startswith("MPEG"):
                return decoder
            # Mp3 inside wav; or a header written to a pipe, or before a crash, that knows no length: FFmpeg looks what
            # follows.
            decoder.close()
    ffmpeg = FFmpegDecoder(path, stream)
    if head.startswith(_LIBSNDFILE_MAGIC) and next(ffmpeg.chunks(0, 1), None) is None:
        raise AudioError(f"{path} holds no samples.")
    return ffmpeg


class _Container:
    """A file opened by FFmpeg, with one of its audio streams."""

    def __init__(self, path: Path, stream: int) -> None:
        try:
            import av  # 50 ms, and needed for compressed files only
            import av.error
        except ModuleNotFoundError:
            raise AudioError(
                f"{path} is not a file that libsndfile reads, and FFmpeg is not here: install it with "
                "`pip install av`, or convert the file to wav or flac."
            ) from None

        # A Python file instead of a name: FFmpeg takes 'a:b.mp3' for a protocol. No protocol is allowed either, so that
        # a playlist in disguise opens no other file and no network connection. PyAV keeps FFmpeg's log off by itself.
        self._file: BinaryIO = open(path, "rb")
        try:
            # From version 19 on, PyAV escapes what is not UTF-8 in tags by itself; clean_tags takes the escapes out.
            tags = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
            self._container = av.open(self._file, options={"protocol_whitelist": "none"}, **tags)
        except (av.error.FFmpegError, ValueError, OSError):
            self._file.close()
            raise AudioError(
                f"{path} is not audio that libsndfile or FFmpeg can read; is it cut short, or named for what it is not?"
            ) from None
        if not self._container.streams.audio:
            self.close()
            raise AudioError(f"{path} holds no audio stream.")
        if stream >= len(self._container.streams.audio):
            self.close()
            raise AudioError(f"{path} holds {stream} audio streams or fewer; number {stream + 1} was asked for.")
        self.stream = self._container.streams.audio[stream]
        codec = self.stream.codec_context
        if codec is None or not codec.sample_rate or not codec.layout.nb_channels or codec.format is None:
            self.close()
            raise AudioError(f"{path} holds an audio stream that FFmpeg cannot decode.")
        self.format_name = self._container.format.name.split(",")[0]
        # Ogg keeps tags with the stream, most others with the file.
        self.tags = {**self._container.metadata, **self.stream.metadata}
        self.stream_count = len(self._container.streams)
        self.duration_seconds = self._container.duration / av.time_base if self._container.duration else None

    def packets(self) -> Iterator[Any]:
        return self._container.demux(self.stream)

    def close(self) -> None:
        self._container.close()
        self._file.close()


def _subtype(codec: Any) -> str:
    """Names a coding as libsndfile would; a lossless one by the integers that it holds."""
    name = codec.codec.canonical_name
    bits = 16 if codec.format.bytes <= 2 else 24
    if name == "alac":
        return f"ALAC_{bits}"
    if name in _LOSSLESS_CODECS:
        return f"PCM_{bits}"
    return _LIBSNDFILE_WORDS.get(name, name.upper())


def _counts_its_frames(path: Path) -> bool:
    """Whether an mp3 has a header that counts its frames (Xing, Info, VBRI); else its duration is but an estimate."""
    with path.open("rb") as file:
        head = file.read(10)
        # The size of an ID3v2 tag: four bytes of seven bits, the header of ten not counted.
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        file.seek(size + 10 if head[:3] == b"ID3" else 0)
        first_frame = file.read(256)
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))
