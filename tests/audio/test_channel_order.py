"""The order of channels, and which of several audio tracks is read: as FFmpeg decodes them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from audio_files import LAYOUTS, encode, read, tones

from jaxsep.audio import AudioReader, AudioWriter
from jaxsep.errors import AudioError

OTHERS = [("a.mka", "flac"), ("a.m4a", "aac"), ("a.opus", "libopus"), ("a.flac", "flac")]


def decoded_by_ffmpeg(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        # Side by side: PyAV itself crashes on planes of eight channels.
        packer = av.AudioResampler(format="flt", layout=stream.layout.name, rate=stream.rate)
        frames = [each for frame in container.decode(stream) for each in packer.resample(frame)]
        return np.concatenate([frame.to_ndarray().reshape(-1, stream.channels) for frame in frames])


def pitches(audio: np.ndarray, rate: int = 44100) -> list[int]:
    """The loudest frequency of each channel, in Hz, to the nearest 100."""
    spectrum = np.abs(np.fft.rfft(audio[:rate], axis=0))
    return [round(float(peak) * rate / min(rate, len(audio)), -2) for peak in spectrum.argmax(axis=0)]


def hertz(channels: int) -> list[int]:
    """A tone for each channel; the lowest for the fourth, which is that of low frequencies from six channels on."""
    return [100 * (1 + (channel - 3) % channels) for channel in range(channels)]


def one_tone_each(channels: int, rate: int = 44100) -> np.ndarray:
    time = np.arange(rate)[:, None] / rate
    return (0.3 * np.sin(2 * np.pi * np.array(hertz(channels)) * time)).astype(np.float32)


@pytest.mark.parametrize("channels", range(1, 9))
def test_vorbis_is_read_in_the_order_in_which_ffmpeg_decodes_it(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.roll(one_tone_each(channels), channels - 4, axis=1), 44100)
    expected = decoded_by_ffmpeg(path)[:40000]  # it leaves out the end
    np.testing.assert_allclose(read(path)[:40000], expected, rtol=0, atol=5e-6)  # two decoders round differently
    assert len(set(pitches(expected))) == channels


@pytest.mark.parametrize("channels", range(1, 9))
def test_what_is_written_as_vorbis_is_decoded_by_ffmpeg_in_the_order_in_which_it_was_given(
    tmp_path: Path, channels: int
) -> None:
    path = tmp_path / "a.ogg"
    with AudioWriter(path, sample_rate=44100, channels=channels, format="ogg", subtype="VORBIS") as writer:
        writer.write(one_tone_each(channels))
    assert pitches(decoded_by_ffmpeg(path)) == hertz(channels)
    assert pitches(read(path)) == hertz(channels)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].layout.name == LAYOUTS[channels]


@pytest.mark.parametrize(
    ("name", "codec", "channels"),
    [
        # FFmpeg's encoder of ALAC knows another layout of eight channels only.
        ("a.m4a", "alac", 6),
        ("a.caf", "alac", 6),
        *((name, codec, channels) for name, codec in OTHERS for channels in (6, 8)),
    ],
)
def test_surround_in_other_containers_has_the_order_in_which_it_was_encoded(
    tmp_path: Path, name: str, codec: str, channels: int
) -> None:
    """Of eight channels in planes, PyAV by itself reads beyond the last one, and the process is gone."""
    path = encode(tmp_path / name, codec, one_tone_each(channels, 48000), sample_rate=48000)
    assert pitches(read(path)[4800:52800], 48000) == hertz(channels)


# --- several audio tracks


def with_default_track(path: Path, number: int | None, count: int = 2) -> list[np.ndarray]:
    """Writes tracks of different pitch into one file, one of them flagged as default, and returns what each holds."""
    signals = [tones(22050, hz=500.0 * (1 + each)) for each in range(count)]
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=44100, layout="stereo") for _ in signals]
        for each, stream in enumerate(streams):
            kind = type(stream.disposition)
            stream.disposition = kind.default if each == number else kind(0)
        for signal, stream in zip(signals, streams, strict=True):
            integers = np.ascontiguousarray((signal.T * 32768).astype(np.int16))
            frame = av.AudioFrame.from_ndarray(integers, format="s16p", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
            converter = av.AudioResampler(format=stream.format.name, layout="stereo", rate=44100)
            for converted in (*converter.resample(frame), *converter.resample(None)):
                container.mux(stream.encode(converted))
            container.mux(stream.encode(None))
    return signals


@pytest.mark.parametrize("default", [0, 1, None])
def test_the_track_that_is_flagged_as_default_is_read_or_else_the_first(tmp_path: Path, default: int | None) -> None:
    path = tmp_path / "film.mkv"
    signals = with_default_track(path, default)
    with AudioReader(path) as reader:
        decoded = np.concatenate(list(reader.blocks(999)))
        assert reader.note is not None
        assert "2 audio tracks" in reader.note and f"number {1 + (default or 0)} " in reader.note
        assert reader.warning is None
    np.testing.assert_allclose(decoded, signals[default or 0], atol=2**-15)  # 16 bits


def test_a_track_that_is_asked_for_is_read_and_one_that_is_not_there_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    signals = with_default_track(path, 1)
    with AudioReader(path, stream=0) as reader:
        assert reader.note is None
        np.testing.assert_allclose(np.concatenate(list(reader.blocks(999))), signals[0], atol=2**-15)
    with pytest.raises(AudioError, match="2 audio streams; number 3 was asked for"):
        AudioReader(path, stream=2)
    with pytest.raises(AudioError, match="one audio stream; number 2 was asked for"):
        AudioReader(encode(tmp_path / "a.m4a", "aac", tones(5000)), stream=1)
