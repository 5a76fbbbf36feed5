"""jaxsep.audio.writer against soundfile's reading, Python's rounding, and the bytes of the formats themselves."""

import dataclasses
import io
import os
import resource
import signal
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import soundfile
from audio_files import tones
from hypothesis import strategies as st

import jaxsep.audio.output_file
import jaxsep.audio.writer
from jaxsep.audio import AudioInfo, AudioWriter, probe
from jaxsep.errors import AudioError, ConfigError

CODINGS = [
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
]


def write(path: Path, audio: np.ndarray, format: str, subtype: str, block: int = 4096, **more: Any) -> AudioWriter:
    arguments = {"sample_rate": 44100, "channels": audio.shape[1], "format": format, "subtype": subtype} | more
    with AudioWriter(path, **arguments) as writer:
        for start in range(0, len(audio), block):
            writer.write(audio[start : start + block])
    return writer


@pytest.mark.parametrize(("format", "subtype"), [coding for coding in CODINGS if "PCM" in coding[1]])
def test_integers_survive_and_soundfile_reads_them_back(tmp_path: Path, format: str, subtype: str) -> None:
    bits = int(subtype[4:])
    integers = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size=(70001, 2))
    integers[:2, 0] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    writer = write(tmp_path / "stem", (integers / 2 ** (bits - 1)).astype(np.float32), format, subtype)
    decoded, rate = soundfile.read(tmp_path / "stem", dtype="int32")
    np.testing.assert_array_equal(decoded >> (32 - bits), integers)  # exact, over the whole range
    info = soundfile.info(tmp_path / "stem")
    assert (rate, info.format, info.subtype) == (44100, format.upper(), subtype)
    assert (writer.frames, writer.clipped) == (70001, 0)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_quantisation_matches_rounding_by_python(tmp_path: Path, subtype: str, bits: int) -> None:
    scale = 2 ** (bits - 1)
    ends = [1.0, -1.0, 1.5, -1.5, 2.0, -40.0, 3e38, -3e38, 1 - 0.4 / scale, 1 - 0.6 / scale, -1 - 0.4 / scale]
    halves = [0.5 / scale, 1.5 / scale, -0.5 / scale, -1.5 / scale, 0.25 / scale, 0.75 / scale]
    values = np.array(ends + halves + list(np.random.default_rng(3).uniform(-1.1, 1.1, 5000)), np.float32)
    writer = write(tmp_path / "a.wav", values[:, None], "wav", subtype, 1)
    rounded = [round(float(value) * scale) for value in values]  # halves to even, in double precision
    expected = [min(max(integer, -scale), scale - 1) for integer in rounded]
    decoded = soundfile.read(tmp_path / "a.wav", dtype="int32")[0] >> (32 - bits)
    assert decoded.tolist() == expected
    assert writer.clipped == sum(integer != inside for integer, inside in zip(rounded, expected, strict=True)) > 7


def test_float_samples_are_kept_exactly(tmp_path: Path) -> None:
    audio = 4 * tones(10000)
    writer = write(tmp_path / "a.wav", audio, "wav", "FLOAT")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], audio)
    assert writer.clipped == 0


@pytest.mark.parametrize(("format", "subtype"), CODINGS)
@pytest.mark.parametrize("frames", [1, 577, 30001])
@pytest.mark.parametrize("channels", [1, 2])
def test_as_many_frames_are_read_by_soundfile_as_were_written(
    tmp_path: Path, format: str, subtype: str, frames: int, channels: int
) -> None:
    audio = tones(frames, channels=channels)
    write(tmp_path / "stem", audio, format, subtype, 1000)
    decoded, _ = soundfile.read(tmp_path / "stem", always_2d=True)
    assert decoded.shape == (frames, channels)
    if frames > 10000:  # 15 dB above the codec's noise; a shift by one sample would leave 13 dB
        assert np.mean(np.square(decoded - audio)) < np.mean(np.square(audio)) / 10**1.5


@pytest.mark.parametrize(("format", "subtype"), [coding for coding in CODINGS if coding[0] != "ogg"])
def test_the_bytes_depend_on_the_samples_alone(tmp_path: Path, format: str, subtype: str) -> None:
    audio = tones(9000)
    path = tmp_path / "stem"
    write(path, audio, format, subtype, 9000)
    reference = path.read_bytes()

    @hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
    @hypothesis.given(st.lists(st.integers(0, 9000), max_size=6).map(sorted))
    def check(cuts: list[int]) -> None:
        with AudioWriter(path, sample_rate=44100, channels=2, format=format, subtype=subtype) as writer:
            for start, end in zip([0, *cuts], [*cuts, 9000], strict=True):
                writer.write(audio[start:end])
        assert path.read_bytes() == reference

    check()


def test_the_bytes_do_not_depend_on_the_clock(tmp_path: Path) -> None:
    def contents() -> list[bytes]:
        paths = [tmp_path / f"{format}-{subtype}" for format, subtype in CODINGS if format != "ogg"]
        for path in paths:
            write(path, tones(1000), *path.name.split("-"))
        return [path.read_bytes() for path in paths]

    before = contents()
    time.sleep(1.1)  # libsndfile's time stamp counts seconds
    assert contents() == before


def test_statistics_match_numpy(tmp_path: Path) -> None:
    audio = 1.5 * tones(100000)
    for format, subtype in CODINGS[:4]:
        writer = write(tmp_path / "stem", audio, format, subtype, 33333)
        assert writer.peak == np.abs(audio).max()
        # float32 sums of 32768 squares at a time
        assert writer.rms == pytest.approx(np.sqrt(np.mean(np.square(audio, dtype=np.float64))), rel=1e-6)


def test_blocks_of_any_memory_layout_are_written_right(tmp_path: Path) -> None:
    audio = tones(5000)
    for view in (np.asfortranarray(audio), np.repeat(audio, 2, axis=0)[::2], np.repeat(audio, 2, axis=1)[:, ::2]):
        write(tmp_path / "a.wav", view, "wav", "FLOAT")
        np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], audio)


# --- bitrates


def mp3_frames(content: bytes) -> list[tuple[int, int, int]]:
    """Reads the header of every frame (ISO/IEC 11172-3, 2.4.2.3): bitrate in kbit/s, sample rate in Hz, channels."""
    bitrates = {
        3: [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        2: [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    }
    position, frames = 0, []
    while position < len(content):
        header = int.from_bytes(content[position : position + 4], "big")
        assert header >> 21 == 0x7FF and (header >> 17) & 3 == 1, f"no header of layer III at byte {position}"
        version = (header >> 19) & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
        bitrate = bitrates[3 if version == 3 else 2][(header >> 12) & 15]
        rate = [44100, 48000, 32000][(header >> 10) & 3] // {3: 1, 2: 2, 0: 4}[version]
        frames.append((bitrate, rate, 1 if (header >> 6) & 3 == 3 else 2))
        position += (144 if version == 3 else 72) * bitrate * 1000 // rate + ((header >> 9) & 1)
    assert position == len(content)
    return frames


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("sample_rate", "bitrates"),
    [
        (44100, [64, 80, 96, 112, 128, 160, 192, 224, 256, 320]),
        (48000, [64, 192, 320]),
        (32000, [48, 192, 320]),
        (22050, [56, 64, 144, 160]),
        (16000, [40, 160]),
        (24000, [64, 160]),
        (8000, [24, 40, 64]),
        (11025, [32, 64]),
        (12000, [32, 64]),
    ],
)
def test_every_frame_of_an_mp3_has_the_bitrate_asked_for(
    tmp_path: Path, sample_rate: int, channels: int, bitrates: list[int]
) -> None:
    audio = tones(20000, sample_rate, channels=channels)
    for bitrate in [*bitrates, None]:
        path = tmp_path / "a.mp3"
        write(path, audio, "mp3", "MPEG_LAYER_III", sample_rate=sample_rate, bitrate_kbps=bitrate)
        expected = (max(bitrates) if bitrate is None else bitrate, sample_rate, channels)
        content = path.read_bytes()
        assert set(mp3_frames(content)) == {expected}
        # What LAME says of itself: byte 20 of its tag, which ends at 255.
        assert content[content.index(b"LAME3") + 20] == min(expected[0], 255)


def test_ogg_files_have_about_the_bitrate_asked_for(tmp_path: Path) -> None:
    audio = tones(441000)
    sizes = []
    for bitrate in (64, 128, 192, 320, 500, None):
        write(tmp_path / "a.ogg", audio, "ogg", "VORBIS", bitrate_kbps=bitrate)
        sizes.append((tmp_path / "a.ogg").stat().st_size * 8 / 10 / 1000)
        # Vorbis holds quality, not bitrate; tones in white noise are not the music that the nominal values are of.
        assert 0.7 < sizes[-1] / (bitrate or 320) < 1.3
    assert sizes[:5] == sorted(sizes[:5])


# --- complete or not at all


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file can grow beyond `size`, as if the disk were full; Python ignores the signal that comes with it."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("format", "subtype"), CODINGS)
@pytest.mark.parametrize("room", [0, 3000, 10000])
def test_a_full_disk_is_an_error_that_leaves_nothing_behind(
    tmp_path: Path, format: str, subtype: str, room: int, capfd: pytest.CaptureFixture[str]
) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (44100, 2)).astype(np.float32)
    path = tmp_path / "stem"
    path.write_bytes(b"what was there before")
    with file_size_limit(room), pytest.raises(AudioError, match="cannot be written: File too large"):
        write(path, audio, format, subtype)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stem"]
    assert path.read_bytes() == b"what was there before"
    assert capfd.readouterr().err == ""


def test_a_full_disk_stops_the_work_at_the_next_block(tmp_path: Path) -> None:
    with (
        file_size_limit(30000),
        pytest.raises(AudioError, match="File too large"),
        AudioWriter(tmp_path / "a.wav", sample_rate=44100, channels=2, format="wav", subtype="PCM_16") as writer,
    ):
        for _ in range(100):
            writer.write(tones(1000))
    assert writer.frames == 7000  # 30000 bytes hold seven blocks of 4000, and not the eighth


def test_bytes_that_the_encoder_kept_to_the_end_meet_a_full_disk_too(tmp_path: Path) -> None:
    writer = AudioWriter(tmp_path / "a.mp3", sample_rate=44100, channels=2, format="mp3", subtype="MPEG_LAYER_III")
    writer.write(tones(500))
    (temporary,) = tmp_path.iterdir()
    room = temporary.stat().st_size  # of LAME's tag; the only audio frame is still in the encoder
    with file_size_limit(room), pytest.raises(AudioError, match="File too large"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_says_another_length_than_was_written_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorter(path: Path) -> AudioInfo:
        return dataclasses.replace(probe(path), frames=999)

    monkeypatch.setattr(jaxsep.audio.writer, "probe", shorter)
    with pytest.raises(AudioError, match=r"1000 frames were written and not all of them arrived"):
        write(tmp_path / "a.wav", tones(1000), "wav", "PCM_16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "subtype"), CODINGS)
def test_bytes_lost_without_an_error_are_noticed(
    tmp_path: Path, format: str, subtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LossyFile(io.FileIO):
        def write(self, data: Any) -> int:
            return len(data) if self.tell() > 2000 else super().write(data)

    monkeypatch.setattr(jaxsep.audio.output_file.io, "FileIO", LossyFile)
    with pytest.raises(AudioError, match=r"not all of them arrived|cannot be read"):
        write(tmp_path / "stem", tones(44100), format, subtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "subtype"), CODINGS)
def test_the_final_name_appears_only_when_the_file_is_complete(tmp_path: Path, format: str, subtype: str) -> None:
    path = tmp_path / "deep" / "er" / "stem"
    writer = AudioWriter(path, sample_rate=44100, channels=2, format=format, subtype=subtype)
    writer.write(tones(5000))
    (temporary,) = path.parent.iterdir()
    assert temporary.name.startswith(".stem.") and temporary.name.endswith(".part")
    writer.close()
    writer.close()
    writer.discard()
    assert list(path.parent.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(AudioError, match="already closed"):
        writer.write(tones(10))


def test_an_exception_discards_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write(path, tones(100), "wav", "PCM_16")
    before = path.read_bytes()
    for format, subtype in CODINGS:
        with (
            pytest.raises(KeyboardInterrupt),
            AudioWriter(path, sample_rate=44100, channels=2, format=format, subtype=subtype) as writer,
        ):
            writer.write(tones(5000))
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("format", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("mp3", "MPEG_LAYER_III")])
def test_a_sample_that_is_not_finite_is_refused_by_its_time(
    tmp_path: Path, format: str, subtype: str, value: float
) -> None:
    audio = tones(88200)
    audio[66150, 1] = value
    with pytest.raises(AudioError, match=rf"would hold {value} at 1\.500000 s"):
        write(tmp_path / "stem", audio, format, subtype, 50000)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_no_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no samples"):
        write(tmp_path / "a.wav", tones(0), "wav", "PCM_16")
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"takes blocks \(time, 2\), not of shape \(10, 1\)"):
        write(tmp_path / "a.wav", tones(10, channels=1), "wav", "PCM_16", channels=2)
    assert list(tmp_path.iterdir()) == []


def test_a_wav_file_never_outgrows_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxsep.audio.writer, "MAX_WAV_DATA_BYTES", 40000)
    write(tmp_path / "a.wav", tones(10000), "wav", "PCM_16", 3000)
    with pytest.raises(AudioError, match="4 GiB; write flac"):
        write(tmp_path / "a.wav", tones(10001), "wav", "PCM_16", 3000)
    assert soundfile.info(tmp_path / "a.wav").frames == 10000
    assert len(list(tmp_path.iterdir())) == 1


def test_names_that_cannot_be_files_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for path, message in {
        tmp_path / "folder": "not a regular file",
        tmp_path / "fifo": "not a regular file",
        Path("/dev/full"): "not a regular file",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "file" / "a.wav": "cannot be written",
        Path(): "not a regular file",
        tmp_path / "nul\0.wav": "is not a file name",
    }.items():
        with pytest.raises(AudioError, match=message):
            AudioWriter(path, sample_rate=44100, channels=2, format="wav", subtype="PCM_16")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fifo", "file", "folder"]


@pytest.mark.parametrize(
    "name", ["früh ♫ 音楽", " leading", "trailing ", "a:b", "100%d", "-dash", os.fsdecode(b"\xff\xfe"), "♫" * 85]
)
def test_odd_names_are_written(tmp_path: Path, name: str) -> None:
    for format, subtype in CODINGS:
        write(tmp_path / name, tones(2000), format, subtype)
        with (tmp_path / name).open("rb") as file:
            assert soundfile.info(file).frames == 2000


def test_what_cannot_be_written_is_refused_before_a_file_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flac loses nothing"):
        write(tmp_path / "folder" / "a.flac", tones(10), "flac", "PCM_16", bitrate_kbps=320)
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_memory_for_blocks_not_for_the_file(tmp_path: Path) -> None:
    audio = tones(44100)
    for format, subtype in CODINGS[:4]:
        write(tmp_path / "a", audio, format, subtype)  # imports and caches first
        tracemalloc.start()
        with AudioWriter(tmp_path / "a", sample_rate=44100, channels=2, format=format, subtype=subtype) as writer:
            for _ in range(60):
                writer.write(audio)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # A block is 0.35 MB; its integers, what libsndfile hands over, and a piece. The file has 10 MB or more.
        assert peak < 2e6
