"""jaxsep.audio.resample against libsoxr in one call, against analytic signals, and against exact fractions."""

import itertools
import math
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
import soxr
from audio_files import tones
from hypothesis import strategies as st

from jaxsep.audio import Resampler, resample, resampled_length
from jaxsep.errors import AudioError

RATES = [8000, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000]
rates = st.sampled_from(RATES) | st.integers(4000, 200000)


@hypothesis.given(length=st.integers(0, 10**12), from_rate=rates, to_rate=rates)
def test_the_length_is_the_ceiling_and_a_round_trip_loses_no_frame(length: int, from_rate: int, to_rate: int) -> None:
    there = resampled_length(length, from_rate, to_rate)
    assert there == math.ceil(Fraction(length * to_rate, from_rate))
    assert resampled_length(there, to_rate, from_rate) >= length


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    frames=st.integers(0, 6000),
    channels=st.integers(1, 3),
    from_rate=st.sampled_from(RATES),
    to_rate=st.sampled_from(RATES),
    cuts=st.lists(st.floats(0, 1), max_size=5).map(sorted),
)
def test_any_cut_into_blocks_gives_what_soxr_gives_at_once(
    frames: int, channels: int, from_rate: int, to_rate: int, cuts: list[float]
) -> None:
    audio = tones(frames, from_rate, channels=channels)
    resampler = Resampler(from_rate, to_rate, channels)
    places = [0, *(int(cut * frames) for cut in cuts), frames]
    parts = [resampler.push(audio[start:end]) for start, end in itertools.pairwise(places)]
    streamed = np.concatenate([*parts, resampler.finish()])
    assert streamed.shape == (resampled_length(frames, from_rate, to_rate), channels)
    assert streamed.dtype == np.float32
    np.testing.assert_array_equal(streamed, resample(audio, from_rate, to_rate))
    if frames:
        expected = soxr.resample(audio, from_rate, to_rate, quality="HQ").reshape(-1, channels)
        # libsoxr rounds its count of frames, and so may lack the last one; the samples are the same, bit for bit.
        assert 0 <= len(streamed) - len(expected) <= 1
        np.testing.assert_array_equal(streamed[: len(expected)], expected)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 48000), (48000, 44100), (44100, 16000), (22050, 44100)])
def test_a_resampled_sine_is_the_sine_at_the_other_rate(from_rate: int, to_rate: int) -> None:
    def sine(frames: int, rate: int) -> np.ndarray:
        return (0.5 * np.sin(2 * np.pi * 997 * np.arange(frames) / rate))[:, None].astype(np.float32)

    resampled = resample(sine(from_rate, from_rate), from_rate, to_rate)
    assert len(resampled) == to_rate
    middle = slice(1000, -1000)  # the filter sees the sine's start and end within these
    # HQ is good for 20 bits, -120 dB of full scale; a delay of a thousandth of a sample would leave 4e-5.
    np.testing.assert_allclose(resampled[middle], sine(to_rate, to_rate)[middle], rtol=0, atol=1e-6)


def test_a_round_trip_cut_to_length_gives_back_a_band_limited_signal() -> None:
    rng = np.random.default_rng(0)
    frames = 44100
    spectrum = np.zeros(frames // 2 + 1, np.complex128)
    spectrum[20:15000] = np.exp(2j * np.pi * rng.uniform(size=14980))  # up to 15 kHz, far from both filters' edges
    audio = np.fft.irfft(spectrum, frames)[:, None]
    audio = (0.5 * audio / np.abs(audio).max()).astype(np.float32)
    back = resample(resample(audio, 44100, 48000), 48000, 44100)[:frames]
    assert len(back) == frames
    # Twice the error of HQ, -120 dB of full scale.
    np.testing.assert_allclose(back[2000:-2000], audio[2000:-2000], rtol=0, atol=2e-6)


def test_equal_rates_copy_nothing() -> None:
    audio = tones(100)
    resampler = Resampler(44100, 44100, 2)
    assert resampler.push(audio) is audio
    assert resampler.finish().shape == (0, 2)
    assert resample(audio, 44100, 44100) is audio


def test_blocks_of_any_memory_layout_are_resampled_right() -> None:
    audio = tones(3000)
    np.testing.assert_array_equal(resample(np.asfortranarray(audio), 44100, 48000), resample(audio, 44100, 48000))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(0, 44100), (44100, 0), (-1, 44100)])
def test_rates_that_are_none_are_refused(from_rate: int, to_rate: int) -> None:
    with pytest.raises(AudioError, match="rates must be positive"):
        Resampler(from_rate, to_rate, 2)
