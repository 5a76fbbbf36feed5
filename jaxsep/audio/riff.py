"""Where the samples of wav and aiff files lie, when the sizes in their headers cannot be true. Decodes nothing.

The sizes of W64, CAF and AU files are in stated_sizes.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from jaxsep.audio.extent import is_padding_or_tag

# Sizes of 32 bits that programs write who do not know the size: of pipes, or beyond 4 GiB.
_NO_SIZE = 0x7FFF0000
_WRAPS_AT = 1 << 32


@dataclass(frozen=True)
class SampleBytes:
    """Where a file's samples lie.

    Attributes:
        ranges: First byte of each stretch of samples, and the byte behind its last.
        stated: Bytes of samples that the header states; None where it knows none.
        as_stated: Whether the one stretch is what the header says, or what is left of that.
        bytes_per_frame: What the header says of it; None for aiff.
        little_endian: Whether the header's numbers are, and so the samples of wav.
    """

    ranges: tuple[tuple[int, int], ...]
    stated: int | None
    as_stated: bool
    bytes_per_frame: int | None
    little_endian: bool

    @property
    def size(self) -> int:
        """Number of bytes of samples."""
        return sum(end - start for start, end in self.ranges)


def find_samples(file: BinaryIO, start: int, end: int) -> SampleBytes | None:
    """Returns where the samples of a wav or aiff file lie, or None for a file of another kind or without samples.

    A size is taken for true if the file ends behind the samples, or goes on with a chunk. Otherwise the samples go on:
    by a multiple of 4 GiB where that leads to the end or to a chunk, else to the end. Several `data` chunks hold one
    piece of the audio each.

    Args:
        file: Open at any place.
        start: Byte at which the header begins.
        end: Byte at which the file ends, without the tags at its end.
    """
    file.seek(start)
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return None
    little = head[:4] in (b"RIFF", b"RF64")
    name = b"SSND" if head[:4] == b"FORM" else b"data"
    return _Walk(file, end, name, little).samples(start + 12)


class _Walk:
    """The way through the chunks of one file."""

    def __init__(self, file: BinaryIO, end: int, name: bytes, little: bool) -> None:
        self._file, self._end, self._name = file, end, name
        self._order: Literal["little", "big"] = "little" if little else "big"

    def samples(self, position: int) -> SampleBytes | None:
        ranges: list[tuple[int, int]] = []
        stated: int | None = 0
        as_stated, frame, wide = True, None, None
        for name, body, size in self._chunks(position):
            if name == b"ds64":  # sizes of RF64, in 64 bits; the fields of 32 bits are then full of ones
                wide = self._number(body + 8, 8)
            elif name == b"fmt ":
                frame = self._number(body + 12, 2)
            elif name == self._name:
                size = wide if size == 0xFFFFFFFF and wide is not None else size
                first, last, known = self._data(body, size)
                ranges.append((first, last))
                stated = None if stated is None or known is None else stated + known
                as_stated = len(ranges) == 1 and known is not None and first + known >= last
                self._next = last
        if not ranges:
            return None
        return SampleBytes(tuple(ranges), stated, as_stated, frame, self._order == "little")

    def _chunks(self, position: int) -> Iterator[tuple[bytes, int, int]]:
        """Yields name, first byte and stated size of each; the walk goes on where `_next` then says."""
        while self._is_chunk(position):
            self._file.seek(position)
            name = self._file.read(4)
            size = self._number(position + 4, 4)
            self._next = position + 8 + size
            yield name, position + 8, size
            position = self._next
            if not self._is_chunk(position):
                position += position % 2  # padded to even sizes, if the program knew

    def _data(self, body: int, size: int) -> tuple[int, int, int | None]:
        """Returns where a stretch of samples begins and ends, and its size by its header; None if that knows none."""
        first = body + (8 if self._name == b"SSND" else 0)  # an offset and a block size, both zero
        stated = body + size
        if (size == 0 and not self._can_follow(body)) or (size >= _NO_SIZE and stated > self._end):
            return first, self._end, None
        if stated >= self._end or self._can_follow(stated):
            return first, max(first, min(stated, self._end)), stated - first
        for wrapped in range(stated + _WRAPS_AT, self._end + 1, _WRAPS_AT):
            if self._can_follow(wrapped):
                return first, wrapped, None
        return first, self._end, None if size >= _NO_SIZE else stated - first

    def _can_follow(self, position: int) -> bool:
        """Whether what lies at a byte is the end, padding, a chunk, or a tag: no samples."""
        if is_padding_or_tag(self._file, position, self._end):
            return True
        return self._is_chunk(position) or (position % 2 == 1 and self._is_chunk(position + 1))

    def _is_chunk(self, position: int) -> bool:
        """Whether a chunk that fits into the file begins at a byte; that of the samples may be longer than the file."""
        if position + 8 > self._end:
            return False
        self._file.seek(position)
        name = self._file.read(4)
        if name in (self._name, b"ds64"):
            return True
        fits = position + 8 + self._number(position + 4, 4) <= self._end + 1
        return fits and all(0x20 <= byte < 0x7F for byte in name)

    def _number(self, position: int, size: int) -> int:
        self._file.seek(position)
        return int.from_bytes(self._file.read(size), self._order)
