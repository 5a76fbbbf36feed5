"""Sizes of samples in W64, CAF and AU headers that cannot be true: all samples are read, and nothing that is none."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import read, tones

from jaxsep.audio import AudioReader

FRAMES, STATED = 40000, 8000
W64_JUNK = b"junk" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + (24 + 400).to_bytes(8, "little") + b"\x55" * 400
CAF_JUNK = b"junk" + (400).to_bytes(8, "big") + b"\x55" * 400
KINDS = [
    ("W64", "PCM_16", 4),
    ("W64", "FLOAT", 8),
    ("CAF", "PCM_16", 4),
    ("CAF", "PCM_24", 6),
    ("CAF", "ULAW", 2),
    ("AU", "PCM_16", 4),
    ("AU", "ULAW", 2),
]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def written(request, tmp_path: Path):
    """A file, its samples, its format and the bytes of a frame."""
    kind, subtype, width = request.param
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, tones(FRAMES), 8000, subtype, format=kind)
    return path, soundfile.read(path, dtype="float32")[0], kind, width


def state(path: Path, kind: str, size: int | None) -> None:
    """Writes another size of the samples into a header, as Apple, Sonic Foundry and Sun define its place."""
    content = bytearray(path.read_bytes())
    if kind == "W64":
        place, value = content.index(b"data") + 16, (2**63 - 1 if size is None else size + 24).to_bytes(8, "little")
    elif kind == "CAF":
        place, value = content.index(b"data") + 4, (-1 if size is None else size + 4).to_bytes(8, "big", signed=True)
    else:
        place, value = 8, (2**32 - 1 if size is None else size).to_bytes(4, "big")
    content[place : place + len(value)] = value
    path.write_bytes(content)


def test_samples_behind_a_size_that_is_too_small_are_read_and_told(written) -> None:
    path, expected, kind, width = written
    state(path, kind, STATED * width)
    with AudioReader(path) as reader:
        assert reader.frames == FRAMES
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(7777))), expected)
        assert reader.warning is not None and "promises 1.000 s" in reader.warning and "5.000 s" in reader.warning
    np.testing.assert_array_equal(read(path, offset_seconds=4.5), expected[36000:])


@pytest.mark.parametrize("size", [None, 0])
def test_a_size_that_was_not_known_is_that_of_the_file(written, size) -> None:
    """FFmpeg writes such headers into pipes, and recorders before their first sample."""
    path, expected, kind, _ = written
    state(path, kind, size)
    with AudioReader(path) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(7777))), expected)
        assert reader.warning is None


@pytest.mark.parametrize("junk", ["chunk", "zeros", "tag"])
def test_what_follows_the_samples_and_is_none_is_not_read(written, junk) -> None:
    path, expected, kind, _ = written
    chunk = {"W64": W64_JUNK, "CAF": CAF_JUNK, "AU": b""}[kind]
    with path.open("ab") as file:
        file.write({"chunk": chunk, "zeros": bytes(5000), "tag": b"TAG" + b"x" * 125}[junk])
    with AudioReader(path) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(999))), expected)
        assert reader.warning is None


def test_a_file_that_is_cut_is_told(written) -> None:
    path, expected, _, _ = written
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with AudioReader(path) as reader:
        found = np.concatenate(list(reader.blocks(999)))
        np.testing.assert_array_equal(found, expected[: len(found)])
        assert 18900 < len(found) <= 20000
        assert reader.truncated and f"promises {len(content)} bytes" in str(reader.warning)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "G721_32"), ("WAV", "NMS_ADPCM_16"), ("AU", "G723_24"), ("AIFF", "GSM610")]
)
def test_codings_in_which_libsndfile_cannot_seek_are_read_whole_and_from_any_frame(
    tmp_path: Path, kind: str, subtype: str
) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, tones(FRAMES, 8000, channels=1), 8000, subtype, format=kind)
    expected = soundfile.read(path, frames=FRAMES + 1000, dtype="float32", always_2d=True)[0]
    with AudioReader(path) as reader:
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate(list(reader.blocks(7777))), expected)
        assert reader.warning is None
    np.testing.assert_array_equal(read(path, offset_seconds=4.0), expected[32000:])
