"""The choice between the two decoders, libsndfile and FFmpeg, which have one interface.

What a reader does with their samples (stretches, blocks, checks) is in reader.py.
"""

import stat
from contextlib import suppress
from pathlib import Path

import soundfile

from jaxsep.audio.extent import end_of_leading_tags
from jaxsep.audio.ffmpeg import FFmpegDecoder
from jaxsep.audio.info import AudioInfo
from jaxsep.audio.libsndfile import LibsndfileDecoder
from jaxsep.errors import AudioError

__all__ = ["AudioInfo", "Decoder", "FFmpegDecoder", "LibsndfileDecoder", "open_decoder"]

# What libsndfile reads best, by the first bytes of the file: a name's ending says nothing certain. Mp3 is not among
# them: FFmpeg gives the same samples (to 2e-6, delay and padding removed) as fast, goes on after damage where libmpg123
# gives up, and keeps standard error clean, on which libmpg123 writes notes that no setting of libsndfile stops.
_LIBSNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"caff", b".snd", b"NIST")
_HEAD_BYTES = 64
_IN_BLOCKS = ("GSM610", "IMA_ADPCM", "MS_ADPCM")

Decoder = LibsndfileDecoder | FFmpegDecoder


def open_decoder(path: Path, stream: int | None = None) -> Decoder:
    """Opens a file with the decoder that fits its first bytes.

    Args:
        path: The file.
        stream: Number of the audio stream, counted from 0; None for the default one.

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
            file.seek(end_of_leading_tags(file))
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise AudioError(f"There is no file {path}.") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be opened: {error.strerror}.") from None
    except ValueError as error:
        raise AudioError(f"{str(path)!r} is not a file name: {error}.") from None
    known_to_libsndfile = head.startswith(_LIBSNDFILE_MAGIC) or (head.startswith(b"OggS") and b"\x01vorbis" in head)
    warning = None
    if known_to_libsndfile and not stream:
        with suppress(soundfile.LibsndfileError):  # a coding that it does not know: FFmpeg may
            decoder = LibsndfileDecoder(path)
            if decoder.known_length and not _left_to_ffmpeg(decoder.info):
                return decoder
            warning = decoder.warning
            decoder.close()
    ffmpeg = FFmpegDecoder(path, stream)
    ffmpeg.warning = warning
    if head.startswith(_LIBSNDFILE_MAGIC) and next(ffmpeg.chunks(0, 1), None) is None:
        raise AudioError(f"{path} holds no samples.")
    return ffmpeg


def _left_to_ffmpeg(info: AudioInfo) -> bool:
    """Returns whether a file that libsndfile knows is left to FFmpeg, which decodes it better.

    Such are mp3 inside of wav; codings in blocks, of which libsndfile counts the last one as full and padding as one
    more; and ALAC of many channels, which FFmpeg puts in order.
    """
    return info.subtype.startswith("MPEG") or info.subtype in _IN_BLOCKS or _is_surround_alac(info)


def _is_surround_alac(info: AudioInfo) -> bool:
    return info.subtype.startswith("ALAC") and info.channels > 2
