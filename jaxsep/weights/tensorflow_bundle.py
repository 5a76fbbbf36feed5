"""TensorFlow's checkpoint bundles (`model.index`, `model.data-00000-of-00001`), read without TensorFlow.

Every offset is checked before it is followed and every checksum before its bytes are used. What the names mean is not
known here.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np

from jaxsep.errors import CheckpointError
from jaxsep.weights.crc32c import masked_crc32c

# LevelDB's table format (google/leveldb, doc/table_format.md): two block handles, padding, and this number.
_FOOTER_SIZE = 48
_MAGIC = 0xDB4775248B80FB57
_BLOCK_TRAILER_SIZE = 5

_STRING, _BFLOAT16 = 7, 14
# The values of TensorFlow's DataType (tensorflow/core/framework/types.proto) that hold plain numbers.
_DTYPES: dict[int, np.dtype] = {
    1: np.dtype("float32"),
    2: np.dtype("float64"),
    3: np.dtype("int32"),
    4: np.dtype("uint8"),
    5: np.dtype("int16"),
    6: np.dtype("int8"),
    9: np.dtype("int64"),
    10: np.dtype("bool"),
    14: np.dtype("uint16"),  # bfloat16: the upper half of a float32
    17: np.dtype("uint16"),
    19: np.dtype("float16"),
    22: np.dtype("uint32"),
    23: np.dtype("uint64"),
}


class _Malformed(Exception):
    """What is wrong with the bytes; becomes one CheckpointError."""


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies, as a BundleEntryProto says."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_tensorflow_bundle(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all numeric tensors of a TensorFlow V2 checkpoint.

    Follows tensorflow/core/util/tensor_bundle and google/leveldb's table format. String tensors, such as the object
    graph of TensorFlow 2, are no weights and are left out.

    Args:
        path: The prefix ('model'), its index file, one of its data files, or the folder, whose `checkpoint` file then
            says which prefix is the latest.

    Returns:
        Name of each variable and its value, in native byte order; bfloat16 as float32.

    Raises:
        CheckpointError: The files are missing, malformed, or fail a checksum.
    """
    prefix = _find_prefix(Path(path))
    index = prefix.with_name(prefix.name + ".index")
    try:
        table = dict(_read_table(index.read_bytes()))
        shards, big_endian = _parse_header(table.pop(b"", b""))
        entries = {name.decode("utf-8"): _parse_entry(value) for name, value in table.items()}
    except (_Malformed, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} is not an intact TensorFlow checkpoint index: {error}; get it anew.") from None
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}.") from None
    data = _open_shards(prefix, shards, {entry.shard for entry in entries.values()})
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype == _STRING:
            continue
        try:
            tensors[name] = _read_tensor(entry, data, big_endian)
        except _Malformed as error:
            raise CheckpointError(
                f"Tensor '{name}' of {prefix} is not intact: {error}; get the checkpoint anew."
            ) from None
    return tensors


def is_tensorflow_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one that `read_tensorflow_bundle` takes."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob("*.index"))
    return (
        path.suffix == ".index" or _data_file(path.name) is not None or path.with_name(path.name + ".index").is_file()
    )


def data_files(path: str | os.PathLike[str]) -> list[Path]:
    """Returns the data files of a bundle in order of their number, for hashing."""
    prefix = _find_prefix(Path(path))
    return sorted(file for file in prefix.parent.iterdir() if _data_file(file.name) == prefix.name)


def _data_file(name: str) -> str | None:
    """Returns the prefix of which this is the name of a data file, if it is one."""
    match = re.fullmatch(r"(.+)\.data-\d{5}-of-\d{5}", name)
    return match[1] if match else None


def _find_prefix(path: Path) -> Path:
    if not path.is_dir():
        prefix = path.name.removesuffix(".index")
        return path.with_name(_data_file(prefix) or prefix)
    state = path / "checkpoint"
    if state.is_file():
        match = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', state.read_text(errors="replace"), re.MULTILINE)
        if match is None:
            raise CheckpointError(f"{state} does not say which checkpoint is the latest; give the prefix itself.")
        # Training writes absolute paths of its own machine, and the bundle moves with its folder.
        return path / PurePosixPath(match[1].replace("\\", "/")).name
    prefixes = [index.with_suffix("") for index in sorted(path.glob("*.index")) if not index.name.startswith(".")]
    if len(prefixes) != 1:
        found = ", ".join(prefix.name for prefix in prefixes) or "none"
        raise CheckpointError(
            f"{path} holds no `checkpoint` file and not just one TensorFlow index ({found}); give a prefix."
        )
    return prefixes[0]


def _open_shards(prefix: Path, count: int, used: set[int]) -> dict[int, np.ndarray]:
    data = {}
    for shard in sorted(used):
        if not 0 <= shard < count:
            raise CheckpointError(f"{prefix}.index points to data file {shard} of {count}; get the checkpoint anew.")
        file = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{count:05d}")
        try:
            empty = file.stat().st_size == 0
            data[shard] = np.zeros(0, np.uint8) if empty else np.memmap(file, np.uint8, mode="r")
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}; it belongs beside the index.") from None
    return data


def _read_tensor(entry: _Entry, data: dict[int, np.ndarray], big_endian: bool) -> np.ndarray:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise _Malformed(f"its data type {entry.dtype} is none of plain numbers")
    if prod(entry.shape) * dtype.itemsize != entry.size:
        raise _Malformed(f"it has {entry.size} bytes and shape {entry.shape} of {dtype}")
    file = data[entry.shard]
    if entry.offset + entry.size > len(file):
        raise _Malformed(f"it ends at byte {entry.offset + entry.size} and the data file at {len(file)}")
    content = np.array(file[entry.offset : entry.offset + entry.size])
    if masked_crc32c(content) != entry.crc:
        raise _Malformed("its bytes do not match their checksum")
    if dtype == np.bool_ and content.size and content.max() > 1:
        raise _Malformed("it holds truth values other than 0 and 1")
    tensor = content.view(dtype.newbyteorder(">" if big_endian else "<")).astype(dtype, copy=False).reshape(entry.shape)
    return (tensor.astype(np.uint32) << 16).view(np.float32) if entry.dtype == _BFLOAT16 else tensor


def _read_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of a LevelDB table in order."""
    if len(content) < _FOOTER_SIZE:
        raise _Malformed(f"{len(content)} bytes are too few")
    footer = content[-_FOOTER_SIZE:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise _Malformed("it does not end as one")
    blocks_end = len(content) - _FOOTER_SIZE
    meta_offset, position = _varint(footer, 0)
    meta_size, position = _varint(footer, position)
    index_offset, position = _varint(footer, position)
    index_size, position = _varint(footer, position)
    if position > 40 or any(footer[position:40]):
        raise _Malformed("its footer is damaged")
    _read_block(content, meta_offset, meta_size, blocks_end)
    previous = None
    for _, handle in _block_entries(_read_block(content, index_offset, index_size, blocks_end)):
        offset, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        for key, value in _block_entries(_read_block(content, offset, size, blocks_end)):
            if previous is not None and key <= previous:
                raise _Malformed("its names are not in order")
            previous = key
            yield key, value


def _read_block(content: bytes, offset: int, size: int, end: int) -> bytes:
    if offset + size + _BLOCK_TRAILER_SIZE > end:
        raise _Malformed(f"a block of {size} bytes at {offset} does not fit into it")
    block = content[offset : offset + size]
    compression, stored = content[offset + size], content[offset + size + 1 : offset + size + _BLOCK_TRAILER_SIZE]
    if masked_crc32c(content[offset : offset + size + 1]) != int.from_bytes(stored, "little"):
        raise _Malformed(f"the block at {offset} does not match its checksum")
    if compression != 0:
        raise _Malformed(f"the block at {offset} is compressed, which TensorFlow's own never are")
    return block


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values of a block; each key is stored as what it adds to the beginning of the one before."""
    if len(block) < 4:
        raise _Malformed("a block is too short")
    end = len(block) - 4 * (1 + int.from_bytes(block[-4:], "little"))
    if end < 0:
        raise _Malformed("a block has more restart points than bytes")
    position, key = 0, b""
    while position < end:
        shared, position = _varint(block, position)
        added, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + added + length > end:
            raise _Malformed("an entry does not fit into its block")
        key = key[:shared] + block[position : position + added]
        position += added
        yield key, block[position : position + length]
        position += length


def _parse_header(message: bytes) -> tuple[int, bool]:
    """Returns the number of data files, and whether they are big endian, of a BundleHeaderProto."""
    fields = dict(_fields(message))
    shards, endianness = fields.get(1, 0), fields.get(2, 0)
    if not isinstance(shards, int) or not isinstance(endianness, int) or shards < 1 or endianness > 1:
        raise _Malformed("its header is missing or unknown")
    return shards, endianness == 1


def _parse_entry(message: bytes) -> _Entry:
    """Returns what a BundleEntryProto says."""
    values = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            shape = _parse_shape(value)
        elif number in values and isinstance(value, int):
            values[number] = value
        elif number == 7:
            raise _Malformed("it holds variables cut into slices, which this reader does not join")
        else:
            raise _Malformed(f"an entry has an unknown field {number}")
    return _Entry(values[1], shape, values[3], values[4], values[5], values[6])


def _parse_shape(message: bytes) -> tuple[int, ...]:
    """Returns the lengths that a TensorShapeProto holds."""
    shape = []
    for number, value in _fields(message):
        if number != 2 or not isinstance(value, bytes):
            raise _Malformed("a shape is unknown")
        length = dict(_fields(value)).get(1, 0)
        if not isinstance(length, int) or length >= 1 << 63:
            raise _Malformed("a shape is negative")
        shape.append(length)
    return tuple(shape)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields field numbers and values of a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, position = _varint(message, position)
        if length is None or position + length > len(message):
            raise _Malformed("a record is cut or of unknown type")
        content = message[position : position + length]
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, "little")
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Returns a base-128 number in its shortest form, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if (byte == 0 and shift) or value >= 1 << 64:
                break
            return value, position
    raise _Malformed("a number in it is cut or too long")
