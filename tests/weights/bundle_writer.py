"""A writer of TensorFlow V2 checkpoints for tests, made from the format's description, not from the reader."""

import struct
from pathlib import Path

import numpy as np

DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "float16": 19,
}


def crc32c_by_bytes(data: bytes) -> int:
    """CRC-32C one byte at a time, as every textbook has it."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c_by_bytes(data)
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def varint(value: int) -> bytes:
    parts = []
    while True:
        value, low = value >> 7, value & 0x7F
        parts.append(low | (0x80 if value else 0))
        if not value:
            return bytes(parts)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value) if value else b""


def text(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def header(shards: int, *, big_endian: bool = False) -> bytes:
    return number(1, shards) + number(2, int(big_endian)) + text(3, number(1, 1))


def entry(dtype: int, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: bytes) -> bytes:
    dims = b"".join(text(2, number(1, length)) for length in shape)
    return number(1, dtype) + text(2, dims) + number(3, shard) + number(4, offset) + number(5, size) + b"\x35" + crc


def block(entries: list[tuple[bytes, bytes]], restart_every: int) -> bytes:
    content, restarts, previous = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return (
        content
        + b"".join(struct.pack("<I", restart) for restart in restarts or [0])
        + struct.pack("<I", len(restarts or [0]))
    )


def table(entries: list[tuple[bytes, bytes]], *, per_block: int = 5, compression: int = 0) -> bytes:
    """A LevelDB table of these entries, in this order."""
    content = b""

    def place(body: bytes) -> bytes:
        nonlocal content
        handle = varint(len(content)) + varint(len(body))
        tail = bytes([compression])
        content += body + tail + masked(body + tail)
        return handle

    index = []
    for start in range(0, len(entries), per_block):
        part = entries[start : start + per_block]
        index.append((part[-1][0] + b"\x01", place(block(part, restart_every=3))))
    meta_handle = place(block([], 1))
    index_handle = place(block(index, 1))
    return content + (meta_handle + index_handle).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(
    prefix: Path,
    tensors: dict[str, np.ndarray],
    *,
    shards: int = 1,
    big_endian: bool = False,
    extra: dict[str, bytes] | None = None,
) -> None:
    """Writes tensors in turn to the data files, and the index; `extra` are entries of the index as they are."""
    data = [b""] * shards
    entries = {b"": header(shards, big_endian=big_endian)}
    for i, (name, tensor) in enumerate(tensors.items()):
        stored = tensor.astype(tensor.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
        shard = i % shards
        entries[name.encode()] = entry(
            DTYPES[tensor.dtype.name], tensor.shape, shard, len(data[shard]), len(stored), masked(stored)
        )
        data[shard] += stored
    entries |= {name.encode(): value for name, value in (extra or {}).items()}
    prefix.with_name(prefix.name + ".index").write_bytes(table(sorted(entries.items())))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
