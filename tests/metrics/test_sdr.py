"""Global SDR and SI-SDR against values worked out by hand and the properties that define them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.errors import AudioError
from jaxsep.metrics.sdr import TrackSums, global_sdr, si_sdr

# float64 sums of a few thousand terms keep 13 digits; in decibels, 4.34 times the relative error.
FLOAT64 = 1e-10


def waveforms(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_global_sdr_matches_hand_computed_values():
    reference = np.array([[1.0, 2.0], [-3.0, 0.0]])
    estimate = np.array([[0.5, 2.0], [-2.0, 1.0]])
    # Reference: 1 + 4 + 9 + 0 = 14. Difference: 0.25 + 0 + 1 + 1 = 2.25.
    assert float(global_sdr(reference, estimate, eps=0.0)) == pytest.approx(10 * math.log10(14 / 2.25), abs=FLOAT64)
    expected = 10 * math.log10((14 + 1e-7) / (2.25 + 1e-7))
    assert float(global_sdr(reference, estimate)) == pytest.approx(expected, abs=FLOAT64)


def test_global_sdr_of_a_gain_is_the_level_of_what_the_gain_removes():
    reference = waveforms(3000, 2, seed=0)
    assert float(global_sdr(reference, 0.9 * reference, eps=0.0)) == pytest.approx(20.0, abs=FLOAT64)
    assert float(global_sdr(reference, 2.0 * reference, eps=0.0)) == pytest.approx(0.0, abs=FLOAT64)
    assert float(global_sdr(reference, -reference, eps=0.0)) == pytest.approx(-20 * math.log10(2), abs=FLOAT64)


def test_global_sdr_pools_samples_and_channels_before_the_ratio():
    # A mean of scores by channel would give 10 dB here: one channel at 20 dB, one at 0 dB, of equal energy.
    reference = np.ones((1000, 2))
    estimate = np.stack([np.full(1000, 0.9), np.zeros(1000)], axis=1)
    assert float(global_sdr(reference, estimate, eps=0.0)) == pytest.approx(10 * math.log10(2 / 1.01), abs=FLOAT64)


def test_global_sdr_scores_each_source_by_itself():
    references, estimates = waveforms(4, 500, 2, seed=1), waveforms(4, 500, 2, seed=2)
    together = global_sdr(references, estimates)
    assert together.shape == (4,)
    for source in range(4):
        assert together[source] == global_sdr(references[source], estimates[source])


def test_global_sdr_eps_bounds_the_extremes_as_in_the_challenge():
    reference, silence = np.ones((500, 2)), np.zeros((500, 2))
    assert float(global_sdr(reference, reference)) == pytest.approx(10 * math.log10((1000 + 1e-7) / 1e-7), abs=FLOAT64)
    assert float(global_sdr(reference, silence)) == 0.0
    assert float(global_sdr(silence, silence)) == 0.0
    assert float(global_sdr(silence, reference)) == pytest.approx(10 * math.log10(1e-7 / (1000 + 1e-7)), abs=FLOAT64)
    assert float(global_sdr(reference, reference, eps=0.0)) == math.inf
    assert math.isnan(float(global_sdr(silence, silence, eps=0.0)))


def test_global_sdr_of_float32_is_taken_in_float64():
    # In float32 the difference of 1e-5 beside an offset of one would already be off by parts in a hundred.
    reference = np.ones((100_000, 2), np.float32)
    estimate = np.full((100_000, 2), np.float32(1.0) + np.float32(2.0**-17))
    expected = 20 * math.log10(2.0**17)
    assert float(global_sdr(reference, estimate, eps=0.0)) == pytest.approx(expected, abs=FLOAT64)


def test_si_sdr_matches_hand_computed_values():
    reference = np.array([[1.0, 2.0], [-2.0, 0.0]])
    estimate = np.array([[2.0, 1.0], [-1.0, 3.0]])
    # <e, s> = 2 + 2 + 2 + 0 = 6, <s, s> = 9, alpha = 2/3; |alpha s|^2 = 4; |e|^2 = 15, so the rest is 15 - 4 = 11.
    assert float(si_sdr(reference, estimate)) == pytest.approx(10 * math.log10(4 / 11), abs=FLOAT64)


def test_si_sdr_is_a_function_of_the_angle_between_reference_and_estimate():
    reference, estimate = waveforms(2000, 2, seed=3), waveforms(2000, 2, seed=4) + 0.5
    unit = [signal.ravel() / np.linalg.norm(signal) for signal in (reference, estimate)]
    cosine = float(unit[0] @ unit[1])
    expected = 10 * math.log10(cosine**2 / (1 - cosine**2))
    # The cosine is about 0.01, and its digits are those of a difference of sums: three are lost.
    assert float(si_sdr(reference, estimate)) == pytest.approx(expected, abs=1e-8)


@settings(max_examples=50, deadline=None)
@given(gain=st.floats(1e-3, 1e3), sign=st.sampled_from([-1.0, 1.0]), seed=st.integers(0, 2**32 - 1))
def test_si_sdr_does_not_depend_on_either_gain(gain: float, sign: float, seed: int):
    reference, noise = waveforms(2, 400, 2, seed=seed)
    estimate = reference + 0.3 * noise
    plain = float(si_sdr(reference, estimate))
    assert float(si_sdr(reference, sign * gain * estimate)) == pytest.approx(plain, abs=1e-9)
    assert float(si_sdr(sign * gain * reference, estimate)) == pytest.approx(plain, abs=1e-9)


def test_si_sdr_is_the_global_sdr_of_the_estimate_in_its_best_gain():
    reference = waveforms(1000, 2, seed=5)
    estimate = 0.1 * reference + 0.02 * waveforms(1000, 2, seed=6)
    # SDR is best not at the gain that SI-SDR projects with but at its counterpart <e, s> / <e, e>; there, with c the
    # cosine between the two, SDR = 1 / (1 - c^2) and SI-SDR = c^2 / (1 - c^2): they differ by c^2.
    gains = np.linspace(5.0, 15.0, 2001)
    best = max(float(global_sdr(reference, gain * estimate, eps=0.0)) for gain in gains)
    cosine = np.vdot(reference, estimate) / np.linalg.norm(reference) / np.linalg.norm(estimate)
    # A grid of 0.005 around a gain of 10 misses the optimum by 2.5e-4 of it: 3e-7 of the reference's energy.
    assert best + 20 * math.log10(cosine) == pytest.approx(float(si_sdr(reference, estimate)), abs=1e-4)


def test_si_sdr_forgives_one_gain_but_not_the_stereo_image():
    reference = np.ones((100, 2))
    panned = reference * np.array([1.0, 0.0])
    # alpha = 1/2: |alpha s|^2 = 50, and 25 + 25 remain.
    assert float(si_sdr(reference, panned)) == pytest.approx(0.0, abs=FLOAT64)


def test_si_sdr_extremes():
    reference, silence = np.ones((8, 2)), np.zeros((8, 2))
    alternating = np.tile([[1.0, 1.0], [-1.0, -1.0]], (4, 1))
    assert float(si_sdr(reference, 0.5 * reference)) == math.inf
    assert float(si_sdr(reference, alternating)) == -math.inf
    assert math.isnan(float(si_sdr(silence, reference)))
    assert math.isnan(float(si_sdr(reference, silence)))


def test_si_sdr_zero_mean_matches_the_mean_taken_by_hand():
    reference, estimate = waveforms(600, 2, seed=7), waveforms(600, 2, seed=7) + 0.2 * waveforms(600, 2, seed=8)
    offset = np.array([3.0, -5.0])
    centred = si_sdr(reference - reference.mean(axis=0), estimate - estimate.mean(axis=0))
    assert float(si_sdr(reference + offset, estimate, zero_mean=True)) == pytest.approx(float(centred), abs=FLOAT64)
    assert abs(float(si_sdr(reference + offset, estimate)) - float(centred)) > 1


def test_si_sdr_matches_the_residual_of_a_torch_least_squares_fit():
    reference, estimate = waveforms(700, 2, seed=9), waveforms(700, 2, seed=10) + waveforms(700, 2, seed=9)
    column = torch.from_numpy(reference.reshape(-1, 1))
    fit = torch.linalg.lstsq(column, torch.from_numpy(estimate.reshape(-1, 1))).solution
    target = column @ fit
    residual = torch.from_numpy(estimate.reshape(-1, 1)) - target
    expected = 10 * torch.log10(target.square().sum() / residual.square().sum())
    assert float(si_sdr(reference, estimate)) == pytest.approx(float(expected), abs=FLOAT64)


@pytest.mark.parametrize("metric", [global_sdr, si_sdr])
def test_scores_refuse_what_cannot_be_compared(metric):
    good = np.ones((10, 2))
    with pytest.raises(AudioError, match=r"\(9, 2\).*\(10, 2\)"):
        metric(good, good[:9])
    with pytest.raises(AudioError, match=r"\(10, 1\)"):  # numpy would broadcast it
        metric(good, good[:, :1])
    with pytest.raises(AudioError, match="at least one sample"):
        metric(good[:0], good[:0])
    broken = good.copy()
    broken[3, 1] = np.nan
    with pytest.raises(AudioError, match="the estimates hold values that are not finite"):
        metric(good, broken)
    with pytest.raises(AudioError, match="the references hold values that are not finite"):
        metric(np.full((10, 2), np.inf), good)


def test_sums_over_stretches_give_the_ratios_of_the_whole_track():
    references, estimates = waveforms(3, 1000, 2, seed=7), waveforms(3, 1000, 2, seed=8)
    estimates[1] = 0.5 * references[1] + 1e-5 * estimates[1]
    cuts = [slice(0, 1), slice(1, 700), slice(700, 1000)]
    first, *rest = (TrackSums.of(references[:, cut], estimates[:, cut]) for cut in cuts)
    sums = sum(rest, first)
    np.testing.assert_allclose(sums.global_sdr(), global_sdr(references, estimates), atol=FLOAT64)
    # Of the second, what is left of the estimate is a difference at -94 dB of two sums with 15 digits.
    np.testing.assert_allclose(sums.si_sdr(), si_sdr(references, estimates), atol=1e-4)


def test_sums_of_extremes_are_those_of_the_functions():
    references = np.stack([np.ones((50, 1)), np.ones((50, 1)), np.zeros((50, 1))])
    estimates = np.stack([2 * np.ones((50, 1)), np.zeros((50, 1)), np.ones((50, 1))])
    sums = TrackSums.of(references, estimates)
    np.testing.assert_array_equal(np.isnan(sums.si_sdr()), [False, True, True])
    assert sums.si_sdr()[0] == math.inf
    np.testing.assert_allclose(sums.global_sdr(), global_sdr(references, estimates), atol=FLOAT64)
