"""jaxsep.audio.reader and decoders against soundfile, the encoded signals themselves, and the ffmpeg executable."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile
import soxr
from audio_files import encode, lag, read, tones
from hypothesis import strategies as st

from jaxsep.audio import AudioReader, probe, read_audio
from jaxsep.errors import AudioError

# Two decoders of one lossy file, both in float32, round differently: 2e-6 is the largest difference seen in a song.
DECODERS = 5e-6


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
    assert read(encode(tmp_path / "mono.mka", "flac", (tones(1000, channels=1) * 32768).astype(np.int16))).shape == (
        1000,
        1,
    )


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


def test_a_whole_file_comes_at_the_rate_and_with_the_channels_asked_for(tmp_path):
    mono = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, 1)).astype(np.float32)
    soundfile.write(tmp_path / "mono.wav", mono, 8000, subtype="FLOAT")
    samples, rate = read_audio(tmp_path / "mono.wav")
    assert rate == 8000
    np.testing.assert_array_equal(samples, mono)
    samples, rate = read_audio(tmp_path / "mono.wav", sample_rate=16000, channels=2)
    assert rate == 16000
    expected = soxr.resample(mono, 8000, 16000, quality="HQ")
    # Cut to the length that jaxsep's conversion has; samples are those of soxr but for rounding in float32.
    np.testing.assert_allclose(samples[:9000], np.repeat(expected, 2, axis=1)[:9000], atol=1e-4)
    soundfile.write(tmp_path / "three.wav", np.repeat(mono, 3, axis=1), 8000)
    with pytest.raises(AudioError, match=r"three\.wav has 3 channels, and 2 are asked for; mix it down first"):
        read_audio(tmp_path / "three.wav", channels=2)
    content = (tmp_path / "mono.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"cut\.wav is cut short or damaged"):
        read_audio(tmp_path / "cut.wav")
