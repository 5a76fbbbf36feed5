"""What jaxsep.audio.reader says of files that cannot be read, and what it makes of those that are cut or damaged."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from audio_files import encode, lag, read, tones

from jaxsep.audio import AudioReader, probe
from jaxsep.errors import AudioError

# --- what cannot be read


def test_files_that_are_no_audio_give_one_sentence_and_nothing_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("Not a song, only words.\n" * 300)
    (tmp_path / "noise.mp3").write_bytes(b"\xff\xfb\x90\x64" + np.random.default_rng(0).bytes(50000))
    (tmp_path / "tag.mp3").write_bytes(b"ID3\x03\x00\x00\x00\x00\x00\x10" + bytes(16))
    soundfile.write(tmp_path / "header.wav", np.zeros((0, 2)), 44100)
    silent_film = encode(tmp_path / "film.mp4", "aac", video=True)
    expected = {
        "missing.wav": "There is no file",
        "folder.wav": "is a directory",
        "pipe.wav": "not a regular file",
        "empty.wav": "is empty",
        "text.mp3": "is not audio",
        "noise.mp3": "is not audio",
        "tag.mp3": "is not audio",
        "header.wav": "holds no samples",
        silent_film.name: "holds no audio stream",
        "nul\0.wav": "is not a file name",
    }
    capfd.readouterr()
    for name, message in expected.items():
        with pytest.raises(AudioError, match=message) as caught:
            read(tmp_path / name)
        text = str(caught.value)
        assert text.endswith((".", "?")) and "\n" not in text, text
        with pytest.raises(AudioError, match=message):
            probe(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    encode(tmp_path / "secret.ts", "aac", tones(9000))
    playlists = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "song.mp3": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, content in playlists.items():
        (tmp_path / name).write_text(content)
        with av.open(str(tmp_path / name)) as container:  # FFmpeg left to itself follows it
            assert sum(frame.samples for frame in container.decode(audio=0)) > 9000
        with pytest.raises(AudioError, match="is not audio"):
            read(tmp_path / name)


def test_an_offset_beyond_the_end_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones(44100), 44100)
    with pytest.raises(AudioError, match=r"offset of 1\.000 s lies beyond the end.*lasts 1\.000 s"):
        AudioReader(tmp_path / "a.wav", offset_seconds=1.0)
    assert len(read(tmp_path / "a.wav", offset_seconds=1 - 1 / 44100)) == 1
    with pytest.raises(AudioError, match=r"offset of 9\.000 s lies beyond the last sample"):
        read(encode(tmp_path / "a.m4a", "aac", tones(44100)), offset_seconds=9.0)


@pytest.mark.parametrize(
    "stretch",
    [
        {"offset_seconds": -0.1},
        {"offset_seconds": float("nan")},
        {"offset_seconds": float("inf")},
        {"duration_seconds": 0.0},
        {"duration_seconds": -1.0},
        {"duration_seconds": float("nan")},
        {"duration_seconds": 1e-9},
    ],
)
def test_stretches_that_are_none_are_refused(tmp_path: Path, stretch: dict[str, float]) -> None:
    soundfile.write(tmp_path / "a.wav", tones(100), 44100)
    with pytest.raises(AudioError, match=next(iter(stretch))):
        AudioReader(tmp_path / "a.wav", **stretch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_named_by_its_time(tmp_path: Path, value: float) -> None:
    audio = tones(20000, 8000)
    audio[12000, 1] = value
    soundfile.write(tmp_path / "bad.wav", audio, 8000, "FLOAT")
    with pytest.raises(AudioError, match=rf"{value} at 1\.500000 s in channel 2"):
        read(tmp_path / "bad.wav", 999)
    with pytest.raises(AudioError, match=rf"{value} at 1\.500000 s in channel 2"):
        read(tmp_path / "bad.wav", 999, offset_seconds=1.25)
    assert len(read(tmp_path / "bad.wav", duration_seconds=1.5)) == 12000


def test_a_change_of_sample_rate_in_the_middle_is_refused(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.aac", "aac", tones(44100))
    second = encode(tmp_path / "b.aac", "aac", tones(48000, 48000), sample_rate=48000)
    joined = tmp_path / "joined.aac"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(AudioError, match="changes from 44100 Hz and 2 channels to 48000 Hz"):
        read(joined)


# --- what is cut or damaged


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.ogg", "a.wav", "a.webm", "a.mka"])
def test_a_cut_file_gives_what_is_left_of_it_and_says_so(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tones(132300)
    if name == "a.webm":
        path = encode(tmp_path / name, "libopus", tones(144000, 48000), sample_rate=48000)
    elif name == "a.mka":
        path = encode(tmp_path / name, "flac", (source * 32768).astype(np.int16))
    else:
        path = tmp_path / name
        soundfile.write(path, source, 44100)
    whole = read(path)
    with AudioReader(path) as reader:
        list(reader.blocks(1000))
        assert (reader.truncated, reader.warning) == (False, None)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    capfd.readouterr()
    with AudioReader(path) as reader:
        left = np.concatenate(list(reader.blocks(1000)))
        assert reader.truncated
        assert reader.warning is not None and "cut short" in reader.warning and name in reader.warning
    assert capfd.readouterr().err == ""
    # Half of the bytes are about half of the time: bitrates vary, and the page at the cut, up to a second, is lost.
    assert 0.3 * len(whole) < len(left) < 0.6 * len(whole)
    # The last packet may be decoded from half of its bytes.
    intact = len(left) - 4096
    np.testing.assert_array_equal(left[:intact], whole[:intact])
    rate = probe(path).sample_rate
    np.testing.assert_array_equal(
        read(path, offset_seconds=0.5, duration_seconds=0.1), whole[rate // 2 :][: rate // 10]
    )


def test_a_damaged_mp3_is_read_past_the_damage_without_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tones(132300), 44100)
    whole = read(path)
    content = bytearray(path.read_bytes())
    content[20000:25000] = np.random.default_rng(1).bytes(5000)
    path.write_bytes(content)
    capfd.readouterr()
    with AudioReader(path) as reader:
        decoded = np.concatenate(list(reader.blocks(1000)))
        assert reader.warning is not None and "damaged" in reader.warning
    assert capfd.readouterr().err == ""
    # 5000 bytes are at most 14 frames of 1152 at the lowest bitrate that the encoder chose here.
    assert len(whole) - 16 * 1152 * 2 < len(decoded) <= len(whole)
    # Behind the damage the samples are the same again, only earlier.
    earlier = -lag(decoded[60000:80000], whole)
    assert 60000 <= earlier < 80000
    np.testing.assert_array_equal(decoded[60000:80000], whole[earlier : earlier + 20000])


def test_joined_mp3_files_are_read_to_the_end_though_the_first_header_promises_less(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, tones(44100), 44100)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(path.read_bytes() * 2)
    with AudioReader(joined) as reader:
        decoded = np.concatenate(list(reader.blocks(1000)))
        assert reader.warning is not None and "all of it was read" in reader.warning
    assert len(decoded) > 80000


def test_an_mp3_behind_a_tag_is_frame_exact_and_one_without_a_header_has_no_known_length(tmp_path: Path) -> None:
    plain = tmp_path / "a.mp3"
    soundfile.write(plain, tones(30000), 44100)
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 100, 20]) + b"TIT2" + (8).to_bytes(4, "big") + bytes(2) + b"\x00A title"
    tagged = tmp_path / "tagged.mp3"
    tagged.write_bytes(tag.ljust(10 + 100 * 128 + 20, b"\0") + plain.read_bytes())
    assert probe(tagged).frames == 30000
    np.testing.assert_array_equal(read(tagged), read(plain))

    with_video_codec = encode(tmp_path / "bare.mp3", "libmp3lame", tones(30000))
    content = with_video_codec.read_bytes()
    place = next(content.find(word) for word in (b"Xing", b"Info") if content.find(word) >= 0)
    frame = content.rfind(b"\xff\xfb", 0, place)
    following = content.find(content[frame : frame + 2], place)
    bare = tmp_path / "headless.mp3"
    bare.write_bytes(content[following:])
    with AudioReader(bare) as reader:
        assert (reader.info.frames, reader.frames) == (None, None)
        list(reader.blocks(1000))
        assert not reader.truncated


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_header_from_a_pipe_is_no_sign_of_a_cut(tmp_path: Path, size: int) -> None:
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tones(5000), 44100, "PCM_16")
    expected = read(path)
    content = bytearray(path.read_bytes())
    data = content.index(b"data")
    content[4:8] = content[data + 4 : data + 8] = size.to_bytes(4, "little")
    path.write_bytes(content)
    with AudioReader(path) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader.blocks(700))), expected)
        assert not reader.truncated


def test_a_flac_from_a_pipe_that_knows_no_length_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "pipe.flac"
    soundfile.write(path, tones(5000), 44100)
    expected = read(path)
    content = bytearray(path.read_bytes())
    # STREAMINFO: the 36 bits before its md5 count the samples (RFC 9639, section 8.2).
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert probe(path).frames is None
    np.testing.assert_array_equal(read(path), expected)
