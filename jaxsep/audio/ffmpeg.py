"""Decoding by FFmpeg (through PyAV): mp3, AAC, Opus, video and all else that libsndfile does not read.

Which decoder a file gets is in decoders.py.
"""

from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxsep.audio.extent import FilePart, end_of_leading_tags, start_of_trailing_tags
from jaxsep.audio.info import AudioInfo
from jaxsep.audio.tags import clean_tags
from jaxsep.errors import AudioError

# Containers whose header states how long the audio is; in all others FFmpeg estimates a duration from the bitrate.
_CONTAINERS_WITH_DURATION = ("mov", "matroska")
# Bare streams of packets, in whose trailing tags FFmpeg looks for more of them.
_BARE = ("mp3", "aac", "ac3", "eac3", "dts")
# What FFmpeg does not find behind an ID3 tag.
_NOT_BEHIND_TAGS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b".snd")
# PyAV counts planes up to a null pointer, and FFmpeg has a place for one behind seven of them only.
_PLANES_THAT_CRASH = 8
# What an encoder's delay and padding can take off an mp3, in frames of 1152 samples.
_MOST_TRIMMED = 4

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


class FFmpegDecoder:
    """Decoding by FFmpeg, which knows what a packet holds when it has decoded it.

    Attributes:
        info: Sample rate, channels, length and coding of the file.
        tags: Title, artist and the like of the song, as the file states them.
        stated_seconds: The duration that the header states and that is not exact, or None where it states none.
        counted_frames: Samples that an mp3's header counts, encoder's delay and padding among them, or None.
        damaged_packets: Packets that the last run of `chunks` could not decode.
        stream: Number of the audio stream that is decoded, counted from 0.
        stream_count: Number of audio streams.
        warning: One sentence on what is left out, from who looked at the header before; else None.
    """

    def __init__(self, path: Path, stream: int | None = None) -> None:
        """Opens a file.

        Args:
            path: The file.
            stream: Number of the audio stream, counted from 0; None for the one that FFmpeg's command takes: flagged as
                default, with the most channels among several of these, the first of equals.

        Raises:
            AudioError: It is not audio, or has no such stream.
        """
        self._path = path
        self.warning: str | None = None
        self.damaged_packets = 0
        self.counted_frames: int | None = None
        with path.open("rb") as file:
            self._ranges = [(_start(file), file.seek(0, 2))]
            end = start_of_trailing_tags(file)
        with closing(self._container(stream)) as container:
            self.stream, self.stream_count = container.number, container.audio_count
            self.tags = clean_tags(container.tags)
            cut = container.format_name in _BARE and end < self._ranges[0][1]
        if cut:
            self._ranges = [(self._ranges[0][0], end)]
        with closing(self._container(self.stream)) as container:
            found = container.stream
            codec = found.codec_context
            name = container.format_name
            seconds = float(container.duration_seconds) if container.duration_seconds else None
            if found.duration is not None and found.time_base is not None:
                seconds = float(found.duration * found.time_base)
            frames = None
            if name == "mp3" and found.duration is not None and found.time_base is not None:
                self.counted_frames = _samples_in_header(path)
                frames = _exact_frames(self.counted_frames, found.duration * found.time_base * codec.sample_rate)
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

    def chunks(self, start: int, length: int) -> Iterator[np.ndarray]:
        """Yields float32 (time, channel) from frame `start` to the end, as much as each packet holds."""
        del length
        import av.error

        self.damaged_packets = 0
        with closing(self._container(self.stream)) as container:
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

    def _container(self, stream: int | None) -> "_Container":
        return _Container(self._path, FilePart(self._path, self._ranges), stream)

    def _samples(self, frame: Any) -> np.ndarray:
        channels = frame.layout.nb_channels
        if (frame.sample_rate, channels) != (self.info.sample_rate, self.info.channels):
            raise AudioError(
                f"{self._path} changes from {self.info.sample_rate} Hz and {self.info.channels} channels to "
                f"{frame.sample_rate} Hz and {channels} in its middle; convert it to one format first."
            )
        if frame.format.is_planar and channels >= _PLANES_THAT_CRASH:
            (frame,) = _packer(frame).resample(frame)
        array = frame.to_ndarray()
        array = array.T if frame.format.is_planar else array.reshape(-1, channels)
        if array.dtype.kind == "f":
            return array.astype(np.float32, copy=False)
        bits = 8 * array.dtype.itemsize
        # Both steps are exact up to 24 bits: codecs of 24 bits fill the upper bits of 32.
        scaled = array.astype(np.float32) * np.float32(2.0 ** (1 - bits))
        return scaled - np.float32(1) if array.dtype.kind == "u" else scaled


def _packer(frame: Any) -> Any:
    """Returns what lays the channels of frames like this one side by side, and changes nothing else."""
    import av

    packed = frame.format.name.removesuffix("p")
    return av.AudioResampler(format=packed, layout=frame.layout.name, rate=frame.sample_rate)


class _Container:
    """A file opened by FFmpeg, with one of its audio streams."""

    def __init__(self, path: Path, file: FilePart, stream: int | None) -> None:
        self._file = file
        try:
            import av  # 50 ms, and needed for compressed files only
            import av.error
        except ModuleNotFoundError:
            file.close()
            raise AudioError(
                f"{path} is not a file that libsndfile reads, and FFmpeg is not here: install it with "
                "`pip install av`, or convert the file to wav or flac."
            ) from None

        # A Python file instead of a name: FFmpeg takes 'a:b.mp3' for a protocol. No protocol is allowed either, so that
        # a playlist in disguise opens no other file and no network connection. PyAV keeps FFmpeg's log off by itself.
        try:
            # From version 19 on, PyAV escapes what is not UTF-8 in tags by itself; clean_tags takes the escapes out.
            tags = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
            self._container = av.open(file, options={"protocol_whitelist": "none"}, **tags)
        except (av.error.FFmpegError, ValueError, OSError):
            file.close()
            raise AudioError(
                f"{path} is not audio that libsndfile or FFmpeg can read; is it cut short, or named for what it is not?"
            ) from None
        audio = self._container.streams.audio
        self.audio_count = len(audio)
        if not audio:
            self.close()
            raise AudioError(f"{path} holds no audio stream.")
        if stream is not None and not 0 <= stream < len(audio):
            self.close()
            count = f"{len(audio)} audio streams" if len(audio) > 1 else "one audio stream"
            raise AudioError(f"{path} holds {count}; number {stream + 1} was asked for.")
        # max gives the first of equals.
        self.number = max(range(len(audio)), key=lambda each: _preference(audio[each])) if stream is None else stream
        self.stream = audio[self.number]
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


def _preference(stream: Any) -> tuple[bool, int]:
    """By what FFmpeg's command chooses among audio streams: the flag 'default', then the number of channels."""
    codec = stream.codec_context
    return bool(stream.disposition & type(stream.disposition).default), codec.layout.nb_channels if codec else 0


def _start(file: BinaryIO) -> int:
    """Returns where FFmpeg is to begin: behind ID3 tags in front of a wav or aiff, which it takes for an mp3's."""
    start = end_of_leading_tags(file)
    file.seek(start)
    return start if file.read(4) in _NOT_BEHIND_TAGS else 0


def _exact_frames(counted: int | None, estimate: Fraction) -> int | None:
    """Returns how many samples an mp3 holds if its header counts them, or None.

    Args:
        counted: What the header counts.
        estimate: What FFmpeg makes of it: the count without the encoder's delay and padding, or, where it does not fit
            the file's size, an estimate by the bitrate.
    """
    if counted is None or estimate.denominator != 1 or not 0 <= counted - estimate <= _MOST_TRIMMED * 1152:
        return None
    return int(estimate)


def _samples_in_header(path: Path) -> int | None:
    """Returns how many samples an mp3's first frame counts (Xing, Info, VBRI), or None where it counts none."""
    with path.open("rb") as file:
        file.seek(end_of_leading_tags(file))
        first_frame = file.read(256)
    if len(first_frame) < 4 or first_frame[0] != 0xFF:
        return None
    samples_per_frame = 1152 if first_frame[1] & 0x08 else 576  # MPEG 1, or its lower rates
    for tag, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        place = first_frame.find(tag)
        if place >= 0 and (tag == b"VBRI" or first_frame[place + 7] & 1):
            return samples_per_frame * int.from_bytes(first_frame[place + offset : place + offset + 4], "big")
    return None
