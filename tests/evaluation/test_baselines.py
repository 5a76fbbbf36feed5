"""Baselines: their closed forms, on signals whose best gains and masks are known."""

import subprocess
import sys

import numpy as np
import pytest

from jaxsep.errors import AudioError, ConfigError
from jaxsep.evaluation.baselines import (
    Song,
    Transform,
    apply_bin_gains,
    apply_gains,
    fit_bin_gains,
    fit_gains,
    ideal_ratio_mask,
)
from jaxsep.metrics.sdr import global_sdr

SMALL = Transform(512, 128)


def noise(length, seed, channels=2):
    return np.random.default_rng(seed).standard_normal((length, channels))


def tone(length, cycles, channels=2):
    """Whole cycles: tones of different numbers of cycles are orthogonal."""
    return np.repeat(np.sin(2 * np.pi * cycles * np.arange(length) / length)[:, None], channels, axis=1)


def song_of(*sources):
    return Song(np.sum(sources, axis=0), np.stack(sources))


def test_the_gain_of_orthogonal_sources_is_their_share_of_the_energy():
    song = song_of(2.0 * tone(1000, 7), tone(1000, 31))
    gains = fit_gains([song])
    np.testing.assert_allclose(gains, [4 / 5, 1 / 5], rtol=1e-12)  # float64 over 2000 samples
    # What is left of 4/5 S in S + N: the SDR is that of |S|^2 to |S/5|^2 + |4/5 N|^2 = |S|^2 / 5.
    np.testing.assert_allclose(
        global_sdr(song.sources[0], apply_gains(gains, song.mixture)[0], eps=0.0), 10 * np.log10(5), rtol=1e-9
    )


def test_gains_are_fitted_over_all_songs_by_their_energy():
    loud, quiet = song_of(10 * tone(500, 3), 0 * tone(500, 5)), song_of(0 * tone(800, 3), 10 * tone(800, 5))
    # Energies 500 * 100 and 800 * 100: the mixture is the first source for 5 / 13 of it.
    np.testing.assert_allclose(fit_gains(iter([loud, quiet])), [5 / 13, 8 / 13], rtol=1e-12)


def test_no_gain_is_better_than_the_fitted_one():
    song = song_of(noise(4000, 0), noise(4000, 1) + 0.3 * noise(4000, 0), 2 * noise(4000, 2))
    gains = fit_gains([song])

    def errors(gains):
        return np.square(apply_gains(gains, song.mixture) - song.sources).sum(axis=(1, 2))

    for change in (-1e-3, 1e-3):
        assert (errors(gains + change) > errors(gains)).all()


def test_the_gains_of_bins_of_two_filtered_noises_are_their_shares_of_power():
    """Wiener's filter: white noise and noise that a one-pole filter has coloured, apart from each other."""
    length, pole = 400_000, 0.9
    white, coloured = noise(length, 0), noise(length, 1)
    for index in range(1, length):
        coloured[index] += pole * coloured[index - 1]
    frequencies = np.arange(SMALL.n_fft // 2 + 1) / SMALL.n_fft
    power = 1 / np.abs(1 - pole * np.exp(-2j * np.pi * frequencies)) ** 2
    gains = fit_bin_gains([song_of(white, coloured)], SMALL)
    # Means over 3100 overlapping frames of two channels, which for three other seeds are off by 0.02 at most.
    np.testing.assert_allclose(gains[1], power / (1 + power), atol=0.04)
    np.testing.assert_allclose(gains.sum(axis=0), 1, rtol=1e-12)  # the sources are all that there is


def test_an_equaliser_of_ones_and_a_gain_give_the_mixture_back_for_every_length():
    for length in (1, 100, 511, 512, 5000):
        mixture = noise(length, 3, channels=1)
        gains = np.stack([np.ones(257), np.full(257, 0.25)])
        estimates = apply_bin_gains(gains, mixture, SMALL)
        np.testing.assert_allclose(estimates, [mixture, 0.25 * mixture], atol=1e-12)  # float64


def test_an_equaliser_separates_tones_that_a_gain_cannot():
    length = 32 * 512
    song = song_of(tone(length, 32 * 20), tone(length, 32 * 200))  # bins 20 and 200
    estimates = apply_bin_gains(fit_bin_gains([song], SMALL), song.mixture, SMALL)
    inside = slice(512, -512)  # at the ends, tones begin, and are heard in all bins
    assert (global_sdr(song.sources[:, inside], estimates[:, inside]) > 60).all()
    assert (global_sdr(song.sources, apply_gains(fit_gains([song]), song.mixture)) < 3.02).all()  # 10 log10(2)


def test_bins_that_nothing_is_heard_in_have_no_gain():
    silence = np.zeros((2000, 2))
    assert not fit_bin_gains([song_of(silence, silence)], SMALL).any()
    assert not fit_gains([song_of(silence, silence)]).any()


def test_ideal_masks_restore_sources_that_do_not_meet():
    """One is silent while the other plays, with more than a frame between them, then tones apart in frequency."""
    gap = np.zeros((1024, 2))
    early = np.concatenate([noise(5000, 0), gap, np.zeros((5000, 2))])
    late = np.concatenate([np.zeros((5000, 2)), gap, noise(5000, 1)])
    song = song_of(early, late)
    np.testing.assert_allclose(ideal_ratio_mask(*song, SMALL), song.sources, atol=1e-9)  # float64


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_ideal_masks_of_sources_in_proportion_are_their_shares(exponent):
    """Of S and 3 S, in every bin 1 to 3 of magnitude and 1 to 9 of power; the estimates are such shares of 4 S."""
    source = noise(3000, 5)
    song = song_of(source, 3 * source)
    share = 3**exponent / (1 + 3**exponent)
    estimates = ideal_ratio_mask(*song, SMALL, exponent=exponent)
    np.testing.assert_allclose(estimates, [(1 - share) * 4 * source, share * 4 * source], atol=1e-11)  # float64


def test_ideal_masks_add_up_to_the_mixture_in_silence_too():
    song = song_of(np.concatenate([noise(2000, 0), np.zeros((3000, 2))]), np.zeros((5000, 2)), np.zeros((5000, 2)))
    np.testing.assert_allclose(ideal_ratio_mask(*song, SMALL).sum(axis=0), song.mixture, atol=1e-11)


def test_float32_songs_are_computed_in_float64():
    song = Song(*(part.astype(np.float32) for part in song_of(1e-3 * noise(300_000, 0), noise(300_000, 1))))
    exact = Song(*(part.astype(np.float64) for part in song))
    np.testing.assert_array_equal(fit_bin_gains([song], SMALL), fit_bin_gains([exact], SMALL))
    np.testing.assert_allclose(fit_gains([song]), fit_gains([exact]), rtol=1e-12)
    assert apply_gains(fit_gains([song]), song.mixture).dtype == np.float64


def test_what_cannot_be_fitted_is_refused():
    for fit in (fit_gains, fit_bin_gains):
        with pytest.raises(AudioError, match="no song to fit"):
            fit([])
        with pytest.raises(AudioError, match=r"shape \(10, 2\) has sources of shape \(1, 9, 2\)"):
            fit([Song(np.zeros((10, 2)), np.zeros((1, 9, 2)))])
    with pytest.raises(ConfigError, match="must divide n_fft"):
        apply_bin_gains(np.ones((1, 257)), noise(1000, 0), Transform(512, 200))


def test_baselines_do_not_need_jax():
    code = "import sys, jaxsep.evaluation.baselines; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
