"""Where in a file its audio lies: behind the tags in front of it, and before those at its end. Decodes nothing."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

_ID3V1_BYTES = 128
_APE_FOOTER_BYTES = 32
_APE_HAS_HEADER = 1 << 31
_LYRICS_END = b"LYRICS200"
_LYRICS_OLD_END = b"LYRICSEND"
# The first version of Lyrics3 holds at most this much text, and does not say how much.
_LYRICS_OLD_BYTES = 5100 + len(b"LYRICSBEGIN") + len(_LYRICS_OLD_END)
# Zeros behind the samples are padding of a disk's sectors up to this size, and a recorder's empty space beyond it.
_MOST_PADDING = 1 << 16


class FilePart(io.RawIOBase):
    """Stretches of a file, one behind the other, as a file that can be read and nothing else.

    Both decoders read through it. It has no name, which FFmpeg could take for a protocol.
    """

    def __init__(
        self, path: Path, ranges: Sequence[tuple[int, int]], mended: Mapping[int, bytes] = MappingProxyType({})
    ) -> None:
        """Opens the file.

        Args:
            path: The file.
            ranges: First byte of each stretch, and the byte behind its last.
            mended: Bytes that are read in place of those in the file, by the position of the first.
        """
        self._file = io.FileIO(path)
        self._mended = mended
        self._ranges = tuple(ranges)
        self._size = sum(end - start for start, end in self._ranges)
        self._position = 0

    def readable(self) -> bool:
        """Returns True: it can be read."""
        return True

    def seekable(self) -> bool:
        """Returns True: it can be read from any byte on."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a byte and returns its place, counted over all stretches."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """Returns the place of the next byte, counted over all stretches."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as the stretches go, and returns how many bytes that were."""
        view = memoryview(buffer).cast("B")
        filled = 0
        before = 0
        for start, end in self._ranges:
            inside = self._position - before
            before += end - start
            if 0 <= inside < end - start and filled < len(view):
                self._file.seek(start + inside)
                wanted = view[filled : filled + (end - start - inside)]
                count = self._file.readinto(wanted) or 0
                self._mend(wanted[:count], start + inside)
                filled += count
                self._position += count
                if count < len(wanted):
                    break
        return filled

    def _mend(self, read: memoryview, start: int) -> None:
        for place, content in self._mended.items():
            first, last = max(place, start), min(place + len(content), start + len(read))
            if first < last:
                read[first - start : last - start] = content[first - place : last - place]

    def close(self) -> None:
        """Gives the file back. Can be called again."""
        self._file.close()
        super().close()


def end_of_leading_tags(file: BinaryIO) -> int:
    """Returns where the audio begins: behind all ID3v2 tags, which programs put in front of files of any kind.

    Args:
        file: Open at any place.
    """
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or 0xFF in head[3:5] or any(byte & 0x80 for byte in head[6:10]):
            return position
        # Four bytes of seven bits; neither the header of ten bytes nor the footer, which a flag tells of, is counted.
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if head[5] & 0x10 else 0)


def start_of_trailing_tags(file: BinaryIO) -> int:
    """Returns where the audio ends: before ID3v1, APEv2 and Lyrics3 tags in any order.

    Args:
        file: Open at any place.
    """
    end = file.seek(0, os.SEEK_END)
    while True:
        before = end - _size_of_last_tag(file, end)
        if before == end:
            return end
        end = before


def is_padding_or_tag(file: BinaryIO, position: int, end: int) -> bool:
    """Returns whether the file ends at a byte behind its samples, or goes on with padding or a tag.

    Args:
        file: Open at any place.
        position: The byte.
        end: Byte at which the file ends.
    """
    rest = end - position
    if rest < 4:
        return True
    file.seek(position)
    head = file.read(min(rest, _MOST_PADDING + 1))
    return head[:3] == b"ID3" or (len(head) <= _MOST_PADDING and not any(head))


def _size_of_last_tag(file: BinaryIO, end: int) -> int:
    """Returns the size of the tag that ends at a byte, or 0 where none does."""
    tail = _bytes_before(file, end, _ID3V1_BYTES)
    if len(tail) == _ID3V1_BYTES and tail[:3] == b"TAG":
        return _ID3V1_BYTES
    footer = tail[-_APE_FOOTER_BYTES:]
    if len(footer) == _APE_FOOTER_BYTES and footer[:8] == b"APETAGEX":
        size = int.from_bytes(footer[12:16], "little")
        size += _APE_FOOTER_BYTES if int.from_bytes(footer[20:24], "little") & _APE_HAS_HEADER else 0
        return size if _APE_FOOTER_BYTES <= size <= end else 0
    if tail.endswith(_LYRICS_END) and tail[-15:-9].isdigit():
        # Not all programs count the same parts of it.
        return _size_from_lyrics_begin(file, end, int(tail[-15:-9]) + 15 + 64)
    if tail.endswith(_LYRICS_OLD_END):
        return _size_from_lyrics_begin(file, end, _LYRICS_OLD_BYTES)
    return 0


def _size_from_lyrics_begin(file: BinaryIO, end: int, most: int) -> int:
    text = _bytes_before(file, end, most)
    begin = text.rfind(b"LYRICSBEGIN")
    return len(text) - begin if begin >= 0 else 0


def _bytes_before(file: BinaryIO, end: int, count: int) -> bytes:
    start = max(0, end - count)
    file.seek(start)
    return file.read(max(0, end - start))
