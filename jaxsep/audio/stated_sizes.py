"""The size of the samples in the headers of W64, CAF and AU files, and what it should be. Decodes nothing.

Those of wav and aiff files are in riff.py.
"""

from dataclasses import dataclass
from typing import BinaryIO

from jaxsep.audio.extent import is_padding_or_tag

# What the names of all chunks of W64 end with, which are GUIDs.
_W64_NAME = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_ALIGNMENT = 8
_UNKNOWN_64 = (1 << 63) - 1
_UNKNOWN_32 = (1 << 32) - 1
# Codings of CAF whose samples follow each other; those of others are in packets, which another chunk counts.
_CAF_SAMPLES = (b"lpcm", b"ulaw", b"alaw")


@dataclass(frozen=True)
class StatedSize:
    """The size of a file's samples: as its header states it, and as it is.

    Attributes:
        first: First byte of the samples.
        last: The byte behind the last one that is there.
        end: Where the file is to end, so that nothing behind the samples is taken for one.
        stated: Bytes of samples that the header states; None where it knows none.
        place: Byte at which the header states it.
        content: Bytes that the header should have there.
    """

    first: int
    last: int
    end: int
    stated: int | None
    place: int
    content: bytes

    @property
    def goes_on(self) -> bool:
        """True where there are more samples than the header states."""
        return self.stated is not None and self.last - self.first > self.stated


def find_stated_size(file: BinaryIO, start: int, end: int) -> StatedSize | None:
    """Returns where the samples of a W64, CAF or AU file lie, or None for other files and without samples.

    As of wav files, a size is taken for true if the file ends behind the samples, or goes on with a chunk, padding or a
    tag. Otherwise the samples go on to the end.

    Args:
        file: Open at any place.
        start: Byte at which the header begins.
        end: Byte at which the file ends, without the tags at its end.
    """
    file.seek(start)
    head = file.read(16)
    if head[:4] == b"riff":
        return _in_w64(file, start, end)
    if head[:4] == b"caff":
        return _in_caf(file, start, end)
    if head[:4] == b".snd" and len(head) == 16:
        return _in_au(file, start, end)
    return None


def _in_w64(file: BinaryIO, start: int, end: int) -> StatedSize | None:
    position = start + 40  # name and size of the file, and its kind
    while (size := _w64_chunk(file, position, end)) is not None:
        file.seek(position)
        body = position + 24
        if file.read(4) == b"data":
            stated = None if size in (0, 24) or size >= _UNKNOWN_64 else size - 24
            behind = body + (stated or 0)
            aligned = behind + -(behind - start) % _W64_ALIGNMENT
            is_true = _w64_chunk(file, aligned, end) is not None or is_padding_or_tag(file, behind, end)
            last = behind if stated is not None and behind < end and is_true else end
            return StatedSize(body, last, last, stated, position + 16, (last - body + 24).to_bytes(8, "little"))
        position += max(24, size + -size % _W64_ALIGNMENT)
    return None


def _w64_chunk(file: BinaryIO, position: int, end: int) -> int | None:
    """Returns the size of the chunk that begins at a byte, its name and size among it; None where none does."""
    if position + 24 > end:
        return None
    file.seek(position)
    name, size = file.read(16), int.from_bytes(file.read(8), "little")
    fits = name[:4] == b"data" or position + size <= end + _W64_ALIGNMENT
    return size if name[4:] == _W64_NAME and fits else None


def _in_caf(file: BinaryIO, start: int, end: int) -> StatedSize | None:
    position, coding = start + 8, b""
    while (size := _caf_chunk(file, position, end)) is not None:
        file.seek(position)
        name, body = file.read(4), position + 12
        if name == b"desc":
            file.seek(body + 8)
            coding = file.read(4)
        if name == b"data" and coding in _CAF_SAMPLES:
            first = body + 4  # a count of edits
            stated = None if size <= 4 else size - 4
            behind = body + max(size, 0)
            is_true = _caf_chunk(file, behind, end) is not None or is_padding_or_tag(file, behind, end)
            last = behind if stated is not None and behind < end and is_true else end
            return StatedSize(first, last, end, stated, position + 4, (last - body).to_bytes(8, "big"))
        position = body + max(size, 0)
    return None


def _caf_chunk(file: BinaryIO, position: int, end: int) -> int | None:
    """Returns the size of the chunk that begins at a byte, without its name and size; None where none does."""
    if position + 12 > end:
        return None
    file.seek(position)
    name, size = file.read(4), int.from_bytes(file.read(8), "big", signed=True)
    fits = name == b"data" or 0 <= size <= end - position - 12
    return size if fits and all(0x20 <= byte < 0x7F for byte in name) else None


def _in_au(file: BinaryIO, start: int, end: int) -> StatedSize | None:
    file.seek(start + 4)
    first, size = start + int.from_bytes(file.read(4), "big"), int.from_bytes(file.read(4), "big")
    if not start + 16 <= first < end:
        return None
    # Beyond 4 GiB the size says nothing.
    stated = None if size in (0, _UNKNOWN_32) or end - first > _UNKNOWN_32 else size
    is_true = stated is not None and first + stated < end and is_padding_or_tag(file, first + stated, end)
    last = first + stated if stated is not None and is_true else end
    return StatedSize(first, last, last, stated, start + 8, _UNKNOWN_32.to_bytes(4, "big"))
