"""Stretching: pitch and tempo are what was asked for, sources stay together, nothing fades at the edges."""

import numpy as np
import pytest

from train.stretch import read_length, stretch

RATE, LENGTH = 44100, 60000


def tones(hz: float, tempo: float) -> np.ndarray:
    """A tone in the first source, one an octave higher in the second, both in two channels."""
    time = np.arange(read_length(LENGTH, tempo, RATE)) / RATE
    mono = np.stack([np.sin(2 * np.pi * hz * time), np.sin(4 * np.pi * hz * time)])
    return np.repeat(mono[..., None], 2, axis=2).astype(np.float32) * np.float32(0.3)


def frequency(tone: np.ndarray) -> float:
    """By the phase of the analytic signal's strongest bin in two windows: far finer than a bin."""
    window, hop, hann = 16384, 8192, np.hanning(16384)
    first, second = (np.fft.rfft(tone[start : start + window] * hann) for start in (10000, 10000 + hop))
    strongest = int(np.argmax(np.abs(first)))
    turns = strongest * hop / window
    fraction = (np.angle(second[strongest] / first[strongest]) / (2 * np.pi) - turns + 0.5) % 1 - 0.5
    return float((turns + fraction) * RATE / hop)


@pytest.mark.parametrize(("semitones", "tempo"), [(2.0, 1.0), (-1.5, 1.0), (0.0, 1.12), (0.0, 0.88), (1.0, 0.9)])
def test_the_pitch_is_as_many_semitones_higher_at_any_tempo(semitones, tempo) -> None:
    stretched = stretch(tones(441.0, tempo), LENGTH, semitones=semitones, tempo=tempo, sample_rate=RATE)
    assert stretched.shape == (2, LENGTH, 2) and stretched.dtype == np.float32
    for source, octave in zip(stretched, (1, 2), strict=True):
        # Half a percent is a twelfth of a semitone: what Signalsmith's blocks of 0.12 s allow.
        assert frequency(source[:, 0]) == pytest.approx(441.0 * octave * 2 ** (semitones / 12), rel=0.005)


@pytest.mark.parametrize("tempo", [0.88, 1.0, 1.12])
def test_what_sounds_together_still_does_and_comes_at_its_time(tempo) -> None:
    length = read_length(LENGTH, tempo, RATE)
    sources = np.zeros((2, length, 2), np.float32)
    noise = np.random.default_rng(3).standard_normal(600).astype(np.float32) * np.float32(0.3)
    places = (12000, 30000, 45000)
    for place in places:
        sources[:, place : place + 600] = noise[None, :, None]
    stretched = stretch(sources, LENGTH, semitones=0.0, tempo=tempo, sample_rate=RATE)
    # The sources are equal before, and one stretcher keeps them so.
    np.testing.assert_allclose(stretched[0], stretched[1], rtol=0, atol=1e-5)
    edge = round(0.06 * RATE)
    for place in places:
        middle = round((place + 300) / tempo) - edge
        around = np.square(stretched[0, middle - 5000 : middle + 5000, 0], dtype=np.float64)
        centre = (around * np.arange(-5000, 5000)).sum() / around.sum()
        assert abs(centre) < 441  # 10 ms, of blocks that last 120


@pytest.mark.parametrize("tempo", [0.88, 1.0, 1.12])
def test_the_level_is_the_same_at_the_edges(tempo) -> None:
    stretched = stretch(tones(441.0, tempo), LENGTH, semitones=1.0, tempo=tempo, sample_rate=RATE)
    levels = [np.sqrt(np.mean(stretched[0, start : start + 1000, 0] ** 2)) for start in (0, 30000, LENGTH - 1000)]
    # A tone of amplitude 0.3; the stretcher's own level wavers by a tenth.
    np.testing.assert_allclose(levels, 0.3 / np.sqrt(2), rtol=0.1)


def test_it_gives_the_same_every_time() -> None:
    sources = np.random.default_rng(1).standard_normal((3, read_length(LENGTH, 1.05, RATE), 2)).astype(np.float32)
    one, other = (stretch(sources, LENGTH, semitones=0.7, tempo=1.05, sample_rate=RATE) for _ in range(2))
    np.testing.assert_array_equal(one, other)
