"""CRC-32C against published check values and a byte-by-byte division."""

import numpy as np
import pytest
from weights.bundle_writer import crc32c_by_bytes

from jaxsep.weights.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "check"),
    [
        # RFC 3720, appendix B.4, and the usual check value of CRC catalogues.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_gives_the_check_values_of_rfc_3720(data, check):
    assert crc32c(data) == check


@pytest.mark.parametrize("length", [*range(1, 70), 255, 256, 257, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2_100_017])
def test_crc32c_matches_division_byte_by_byte(length):
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
    assert crc32c(data) == crc32c_by_bytes(data.tobytes())


def test_masking_undoes_as_leveldb_describes_it():
    # google/leveldb, util/crc32c.h: rotated right by 15 bits, plus a constant; undone by the reverse.
    crc, masked = crc32c(b"foo"), masked_crc32c(b"foo")
    rotated = (masked - 0xA282EAD8) % 2**32
    assert masked != crc
    assert ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF == crc
