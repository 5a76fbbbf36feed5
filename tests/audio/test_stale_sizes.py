"""Headers whose sizes cannot be true, and tags around the audio: all samples are read, and nothing that is none."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import encode, read, tones

from jaxsep.audio import AudioReader, probe
from jaxsep.errors import AudioError

ID3 = b"ID3\x04\x00\x00" + bytes([0, 0, 3, 10]) + bytes(3 * 128 + 10)
ID3V1 = b"TAG" + bytes(125)
# The cover of an album may hold what looks like packets of mp3; 32 bytes of header and of footer, as APEv2 has them.
COVER = b"\xff\xfb\x90\x64" * 4000
APE_HEAD = b"APETAGEX" + (2000).to_bytes(4, "little") + (len(COVER) + 32).to_bytes(4, "little") + bytes([1, 0, 0, 0])
APE = APE_HEAD + (0xA0000000).to_bytes(4, "little") + bytes(8) + COVER
APE += APE_HEAD + (0x80000000).to_bytes(4, "little") + bytes(8)
LYRICS_TEXT = b"LYRICSBEGININD0000200LYR00010hello text"
LYRICS = LYRICS_TEXT + b"%06d" % len(LYRICS_TEXT) + b"LYRICS200"
OLD_LYRICS = b"LYRICSBEGIN[00:01]some words" + b"LYRICSEND"


def with_sizes(content: bytes, name: bytes, size: int, order: str = "little") -> bytes:
    """A wav or aiff file whose header states another size of the samples, and of the file."""
    changed = bytearray(content)
    place = content.index(name) + 4
    header = len(content) - int.from_bytes(content[place : place + 4], order)
    changed[place : place + 4] = size.to_bytes(4, order)
    changed[4:8] = min(size + header - 8, 2**32 - 1).to_bytes(4, order)
    return bytes(changed)


@pytest.mark.parametrize(
    ("ending", "subtype", "endian"),
    [
        ("wav", "PCM_16", "FILE"),
        ("wav", "PCM_24", "FILE"),
        ("wav", "FLOAT", "FILE"),
        ("wav", "PCM_U8", "FILE"),
        ("wav", "ULAW", "FILE"),
        ("wav", "PCM_16", "BIG"),
        ("aiff", "PCM_16", "FILE"),
        ("aiff", "PCM_24", "FILE"),
        ("aiff", "PCM_16", "LITTLE"),
    ],
)
def test_samples_behind_a_size_that_is_too_small_are_read_and_told(
    tmp_path: Path, ending: str, subtype: str, endian: str
) -> None:
    """What a recorder leaves that was cut off: the sizes are those of when it last wrote them."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, tones(40000), 8000, subtype, endian, ending.upper())
    expected, _ = soundfile.read(path, dtype="float32")
    name, order = (b"data", "little") if ending == "wav" else (b"SSND", "big")
    order = "big" if endian == "BIG" else order
    content = path.read_bytes()
    width = (len(content) - content.index(name)) // 40000
    path.write_bytes(with_sizes(content, name, 8000 * width, order))
    with AudioReader(path) as reader:
        assert reader.frames == len(expected)
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(7777))), expected)
        assert not reader.truncated
        assert reader.warning is not None and "promises 1.000 s" in reader.warning and "5.000 s" in reader.warning
    assert len(read(path, offset_seconds=4.5)) == 4000


@pytest.mark.parametrize("junk", [bytes(5000), b"LIST\x04\x00\x00\x00INFO", ID3, ID3V1, b"\0", b"id3 \x03\0\0\0abc"])
def test_what_follows_the_samples_and_is_none_is_not_read(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(5000), 44100)
    expected = read(path)
    path.write_bytes(path.read_bytes() + junk)
    with AudioReader(path) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(999))), expected)
        assert reader.warning is None


def test_two_data_chunks_are_one_signal(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tones(5000), 44100)
    expected = read(path)
    content = path.read_bytes()
    data = content.index(b"data")
    samples = content[data + 8 :]
    pieces = [samples[:4000], samples[4000:]]
    chunks = b"".join(b"data" + len(piece).to_bytes(4, "little") + piece for piece in pieces)
    path.write_bytes(content[:data] + chunks)
    with AudioReader(path) as reader:
        assert reader.frames == 5000
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(999))), expected)
        assert reader.warning is None or "all" in reader.warning


@pytest.mark.parametrize("size", ["wrapped", "none"])
def test_wav_files_beyond_4_gib_are_read_whole(tmp_path: Path, size: str) -> None:
    """A sparse file: zeros that take no room on the disk, and a tone at their end, beyond what 32 bits count."""
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros((2, 2)), 48000, "FLOAT")
    header = path.read_bytes()[:-16]
    tone = tones(4800, 48000)
    frames = (2**32 + 2**28) // 8
    true_size = frames * 8
    content = bytearray(header)
    content[-4:] = (true_size % 2**32 if size == "wrapped" else 2**32 - 1).to_bytes(4, "little")
    content[4:8] = content[-4:]
    with path.open("wb") as file:
        file.write(content)
        file.seek(len(content) + true_size - tone.nbytes)
        file.write(tone.tobytes())
        if size == "wrapped":
            file.write(b"LIST\x04\x00\x00\x00INFO")
    info = probe(path)
    assert (info.frames, info.channels, info.subtype) == (frames, 2, "FLOAT")
    np.testing.assert_array_equal(read(path, offset_seconds=(frames - 4800) / 48000), tone)
    os.truncate(path, 0)  # what holds such files for later tests counts their size


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM"])
@pytest.mark.parametrize("pad", [b"", b"\0"])
def test_codings_in_blocks_are_no_damage(tmp_path: Path, subtype: str, pad: bytes) -> None:
    path = tmp_path / "a.wav"
    channels = 1 if subtype == "GSM610" else 2
    soundfile.write(path, tones(40000, 8000, channels=channels), 8000, subtype)
    path.write_bytes(path.read_bytes() + pad)
    with AudioReader(path) as reader:
        decoded = np.concatenate(list(reader.blocks(999)))
        assert reader.warning is None and not reader.truncated
    assert 40000 <= len(decoded) < 41024  # whole blocks, of 320 to 1,012 samples here


# --- tags


@pytest.mark.parametrize("tag", [ID3, ID3 + ID3, b"ID3\x04\x00\x10" + ID3[6:] + b"3DI" + ID3[3:10]])
@pytest.mark.parametrize("ending", ["wav", "aiff", "flac", "ogg", "mp3"])
def test_an_id3_tag_in_front_is_skipped(tmp_path: Path, ending: str, tag: bytes) -> None:
    plain, tagged = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    soundfile.write(plain, tones(20000), 44100)
    tagged.write_bytes(tag + plain.read_bytes())
    with AudioReader(tagged) as reader:
        assert reader.frames == 20000
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(999))), read(plain))
        assert reader.warning is None


def test_an_id3_tag_in_front_of_a_wav_with_a_coding_of_ffmpegs_is_skipped(tmp_path: Path) -> None:
    plain, tagged = tmp_path / "a.wav", tmp_path / "b.wav"
    encode(plain, "libmp3lame", tones(20000))
    tagged.write_bytes(ID3 + plain.read_bytes())
    np.testing.assert_array_equal(read(tagged), read(plain))


@pytest.mark.parametrize(
    "tag",
    [APE, LYRICS, OLD_LYRICS, ID3V1, APE + ID3V1, LYRICS + ID3V1, APE + LYRICS + ID3V1],
    ids=["ape", "lyrics", "old-lyrics", "id3v1", "ape-id3v1", "lyrics-id3v1", "all"],
)
@pytest.mark.parametrize("ending", ["mp3", "aac", "wav"])
def test_tags_at_the_end_are_no_packets(tmp_path: Path, ending: str, tag: bytes) -> None:
    plain, tagged = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    if ending == "aac":
        encode(plain, "aac", tones(20000))
    else:
        soundfile.write(plain, tones(20000), 44100)
    tagged.write_bytes(plain.read_bytes() + tag)
    with AudioReader(tagged) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(999))), read(plain))
        assert reader.warning is None and not reader.truncated
        assert reader.info.frames == (None if ending == "aac" else 20000)


def test_the_titles_in_tags_at_the_end_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tones(20000), 44100)
    path.write_bytes(path.read_bytes() + b"TAG" + b"A title".ljust(30, b"\0") + bytes(95))
    with AudioReader(path) as reader:
        assert reader.tags["title"] == "A title"
        assert reader.info.frames == 20000


def test_a_tag_that_claims_more_than_the_file_is_not_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(100))
    with pytest.raises(AudioError, match="is not audio"):
        read(path)
