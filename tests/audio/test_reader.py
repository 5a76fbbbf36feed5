"""jaxsep.audio.reader and decoders against soundfile, the encoded signals themselves, and the ffmpeg executable."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import hypothesis
import numpy as np
import pytest
import soundfile
from audio_files import encode, tones
from hypothesis import strategies as st

from jaxsep.audio import AudioReader, probe
from jaxsep.errors import AudioError

# Two decoders of one lossy file, both in float32, round differently: 2e-6 is the largest difference seen in a song.
DECODERS = 5e-6


def read(path: Path | str, length: int = 4096, **stretch: float) -> np.ndarray:
    with AudioReader(path, **stretch) as reader:
        return np.concatenate(list(reader.blocks(length)))


def lag(audio: np.ndarray, source: np.ndarray) -> int:
    """By how many frames `audio` comes later than `source`: the peak of their cross-correlation."""
    size = 1 << (len(audio) + len(source)).bit_length()
    spectrum = np.fft.rfft(audio[:, 0], size) * np.conj(np.fft.rfft(source[:, 0], size))
    place = int(np.argmax(np.fft.irfft(spectrum, size)))
    return place if place < size // 2 else place - size


def signal_to_noise_db(audio: np.ndarray, source: np.ndarray) -> float:
    length = min(len(audio), len(source))
    noise = np.sum(np.square(audio[:length] - source[:length], dtype=np.float64))
    return float(10 * np.log10(np.sum(np.square(source[:length], dtype=np.float64)) / noise))


def all_integers(bits: int, channels: int = 2) -> np.ndarray:
    """Integers of `bits` that include both ends of the range, in the upper bits of int32."""
    rng = np.random.default_rng(0)
    integers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size=(5000, channels), dtype=np.int64)
    integers[:2, 0] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return (integers << (32 - bits)).astype(np.int32)


@pytest.mark.parametrize(
    ("ending", "subtype", "bits"),
    [
        ("wav", "PCM_16", 16),
        ("wav", "PCM_24", 24),
        ("flac", "PCM_16", 16),
        ("flac", "PCM_24", 24),
        ("aiff", "PCM_24", 24),
        ("wav", "PCM_U8", 8),
    ],
)
def test_integers_written_by_soundfile_come_back_exactly(tmp_path: Path, ending: str, subtype: str, bits: int) -> None:
    integers = all_integers(bits)
    path = tmp_path / f"mixture.{ending}"
    soundfile.write(path, integers, 44100, subtype)
    np.testing.assert_array_equal(read(path) * 2.0**31, integers)  # exact: scaled by powers of two alone
    info = probe(path)
    assert (info.sample_rate, info.channels, info.frames, info.subtype) == (44100, 2, 5000, subtype)
    assert info.format == ending.upper()
    assert info.duration_seconds == 5000 / 44100


@pytest.mark.parametrize(
    ("name", "codec", "bits", "subtype"),
    [
        ("a.mka", "flac", 16, "PCM_16"),
        ("a.m4a", "alac", 16, "ALAC_16"),
        ("b.m4a", "alac", 24, "ALAC_24"),
        ("a.mov", "pcm_s24le", 24, "PCM_24"),
        ("a.mov", "pcm_u8", 8, "PCM_U8"),
    ],
)
def test_integers_that_ffmpeg_decodes_come_back_exactly(
    tmp_path: Path, name: str, codec: str, bits: int, subtype: str
) -> None:
    integers = all_integers(bits)
    source = (integers >> 16).astype(np.int16) if bits <= 16 else integers
    path = encode(tmp_path / name, codec, source)
    np.testing.assert_array_equal(read(path) * 2.0**31, integers)  # exact, as above
    assert probe(path).subtype == subtype


def test_float_samples_beyond_full_scale_come_back_exactly(tmp_path: Path) -> None:
    source = 3 * tones(1000)
    soundfile.write(tmp_path / "loud.wav", source, 44100, "FLOAT")
    np.testing.assert_array_equal(read(tmp_path / "loud.wav"), source)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_decoded_samples_match_soundfile(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"mixture.{ending}"
    soundfile.write(path, tones(50001), 44100)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert len(expected) == 50001
    np.testing.assert_allclose(read(path), expected, rtol=0, atol=DECODERS)
    assert probe(path).frames == 50001


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_every_stretch_is_the_slice_of_the_whole_file_read_by_soundfile(tmp_path: Path, ending: str) -> None:
    rate, frames = 8000, 4321
    path = tmp_path / f"mixture.{ending}"
    soundfile.write(path, tones(frames, rate), rate)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)

    @hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
    @hypothesis.given(
        start=st.integers(0, frames - 1), duration=st.integers(1, frames + 100), length=st.integers(1, frames + 100)
    )
    def check(start: int, duration: int, length: int) -> None:
        expected = whole[start : start + duration]
        with AudioReader(path, offset_seconds=start / rate, duration_seconds=duration / rate) as reader:
            assert reader.frames == len(expected)
            blocks = list(reader.blocks(length))
        assert [len(block) for block in blocks[:-1]] == [length] * (len(blocks) - 1)
        assert 1 <= len(blocks[-1]) <= length
        # Vorbis windows start anew after a seek, and so round anew.
        np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=DECODERS)
        assert not reader.truncated

    check()


def test_blocks_can_be_asked_for_again(tmp_path: Path) -> None:
    for ending in ("wav", "mp3"):
        path = tmp_path / f"mixture.{ending}"
        soundfile.write(path, tones(5000), 44100)
        with AudioReader(path, offset_seconds=0.01) as reader:
            next(reader.blocks(1000))
            first, second = (np.concatenate(list(reader.blocks(999))) for _ in range(2))
        assert len(first) == 5000 - 441
        np.testing.assert_array_equal(first, second)


def test_mono_stays_mono(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", tones(1000, channels=1), 44100)
    assert read(tmp_path / "mono.wav").shape == (1000, 1)
    assert read(
        encode(tmp_path / "mono.mka", "flac", (tones(1000, channels=1) * 32768).astype(np.int16), channels=1)
    ).shape == (1000, 1)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "padded"),
    [
        ("a.m4a", "aac", 44100, True),
        ("a.mp4", "aac", 48000, True),
        ("a.opus", "libopus", 48000, False),
        ("a.webm", "libopus", 48000, False),
    ],
)
def test_lossy_files_start_where_the_encoded_signal_started(
    tmp_path: Path, name: str, codec: str, rate: int, padded: bool
) -> None:
    source = tones(3 * rate + 777, rate)
    path = encode(tmp_path / name, codec, source, sample_rate=rate)
    decoded = read(path)
    assert lag(decoded, source) == 0
    assert signal_to_noise_db(decoded, source) > 10  # the tones are there: 17 dB above the noise, which codecs replace
    if padded:  # whole packets of 1024, as FFmpeg's command line gives them
        assert len(source) <= len(decoded) < len(source) + 1024
    else:
        assert len(decoded) == len(source)
    info = probe(path)
    assert (info.sample_rate, info.channels, info.frames) == (rate, 2, None)
    # The container's own statement, in milliseconds, with the encoder's delay of at most 0.05 s or without it.
    assert info.duration_seconds == pytest.approx(len(source) / rate, abs=0.05)
    assert (info.format, info.subtype) == {
        "a.m4a": ("MOV", "AAC"),
        "a.mp4": ("MOV", "AAC"),
        "a.opus": ("OGG", "OPUS"),
        "a.webm": ("MATROSKA", "OPUS"),
    }[name]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with the ffmpeg executable")
@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.m4a", "aac", 44100), ("a.opus", "libopus", 48000), ("a.mp3", "libmp3lame", 44100), ("a.ts", "aac", 44100)],
)
def test_decoded_samples_match_the_ffmpeg_executable(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = encode(tmp_path / name, codec, tones(2 * rate + 55, rate), sample_rate=rate)
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-f", "f32le", "-"]
    output = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    expected = np.frombuffer(output, "<f4").reshape(-1, 2)
    decoded = read(path)
    # FFmpeg 8, which PyAV 19 brings along, cuts what an AAC encoder added to its last packet; Debian's leaves it there.
    shared = min(len(decoded), len(expected))
    assert 2 * rate + 55 <= shared and max(len(decoded), len(expected)) - shared < (1024 if codec == "aac" else 1)
    np.testing.assert_allclose(decoded[:shared], expected[:shared], rtol=0, atol=DECODERS)


def test_the_first_of_several_audio_streams_is_read_past_a_video_stream(tmp_path: Path) -> None:
    mixture, drums = tones(88200, hz=440), tones(88200, hz=3000)
    path = encode(tmp_path / "song.stem.mp4", "aac", mixture, drums, video=True)
    decoded = read(path)
    assert signal_to_noise_db(decoded, mixture) > 10
    assert signal_to_noise_db(decoded, drums) < 0


def test_a_stretch_of_a_file_of_unknown_length_is_the_slice_of_the_whole(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.m4a", "aac", tones(20000))
    whole = read(path)
    with AudioReader(path, offset_seconds=5000 / 44100, duration_seconds=7000 / 44100) as reader:
        assert reader.frames is None
        stretch = np.concatenate(list(reader.blocks(999)))
    np.testing.assert_array_equal(stretch, whole[5000:12000])


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


# --- names, cost


ODD_NAMES = [
    "früh ♫ 音楽",
    " leading",
    "trailing ",
    "a:b",
    "100%d",
    "-dash",
    "quote'\"",
    "new\nline",
    os.fsdecode(b"\xff\xfe"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("ending", [".wav", ".mp3", ""])
def test_odd_names_are_read(tmp_path: Path, name: str, ending: str) -> None:
    plain = tmp_path / "plain.mp3"
    soundfile.write(plain, tones(3000), 44100, format="WAV" if ending == ".wav" else "MP3")
    path = tmp_path / (name + ending)
    plain.rename(path)
    assert len(read(path)) == 3000


def test_reading_needs_memory_for_blocks_not_for_the_file(tmp_path: Path) -> None:
    for ending in ("wav", "mp3"):
        path = tmp_path / f"long.{ending}"
        soundfile.write(path, np.tile(tones(44100), (60, 1)), 44100)
        with AudioReader(path) as reader:
            list(reader.blocks(44100))  # imports and caches first
            tracemalloc.start()
            for _ in reader.blocks(44100):
                pass
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        # A block is 0.35 MB; one held here, one being made, a mask for the check. The file is 21 MB.
        assert peak < 2e6


def test_the_package_imports_neither_jax_nor_pyav() -> None:
    program = "import jaxsep.audio, sys; print([name for name in ('jax', 'av') if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert output.stdout.strip() == "[]"
