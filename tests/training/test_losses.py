"""Losses against PyTorch, our float64 metrics and logWMSE's own filter; finite on silence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import torch

from jaxsep.metrics.log_wmse import hearing_response
from jaxsep.metrics.sdr import global_sdr, si_sdr
from jaxsep.training import losses

SHAPE = (2, 3, 6000, 2)


def pair(seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.standard_normal(SHAPE).astype(np.float32) * 0.2
    return targets + 0.05 * rng.standard_normal(SHAPE).astype(np.float32), targets


def waveform_losses():
    return {
        "l1": losses.l1,
        "l2": losses.l2,
        "negative_sdr": losses.negative_sdr,
        "negative_si_sdr": losses.negative_si_sdr,
        "multi_resolution_stft": losses.multi_resolution_stft,
        "log_wmse": lambda e, t: losses.log_wmse(e, t, t.sum(axis=1), sample_rate=44100),
    }


@pytest.mark.parametrize("ours, theirs", [(losses.l1, torch.nn.L1Loss), (losses.l2, torch.nn.MSELoss)])
def test_l1_and_l2_match_torch(ours, theirs):
    estimates, targets = pair()
    found = np.asarray(ours(jnp.asarray(estimates), jnp.asarray(targets)))
    assert found.shape == SHAPE[:2]
    for index in np.ndindex(*SHAPE[:2]):
        expected = theirs()(torch.tensor(estimates[index]).double(), torch.tensor(targets[index]).double())
        assert found[index] == pytest.approx(expected.item(), rel=1e-5)  # a float32 mean of 12,000 values


@pytest.mark.parametrize(
    "loss, metric", [(losses.negative_sdr, global_sdr), (losses.negative_si_sdr, si_sdr)], ids=["sdr", "si-sdr"]
)
def test_sdr_losses_are_minus_the_float64_metrics(loss, metric):
    estimates, targets = pair()
    found = np.asarray(loss(jnp.asarray(estimates), jnp.asarray(targets)))
    for index in range(len(found)):
        np.testing.assert_allclose(
            found[index], -metric(targets[index], estimates[index]), atol=1e-3
        )  # dB: float32 sums of 12,000 squares


def test_multi_resolution_stft_matches_torch():
    """Against torch.stft put together as auraloss does: spectral convergence and log magnitudes, per channel."""
    estimates, targets = pair()
    found = np.asarray(losses.multi_resolution_stft(jnp.asarray(estimates), jnp.asarray(targets)))

    def magnitude(waveform, n_fft):
        window = torch.hann_window(n_fft, dtype=torch.float64)
        spectrum = torch.stft(torch.tensor(waveform.T).double(), n_fft, n_fft // 4, window=window, return_complex=True)
        return torch.clamp(spectrum.abs() ** 2, min=1e-8).sqrt()

    for index in np.ndindex(*SHAPE[:2]):
        expected = 0.0
        for n_fft in (512, 1024, 2048):
            estimated, true = magnitude(estimates[index], n_fft), magnitude(targets[index], n_fft)
            convergence = (true - estimated).norm(dim=(-2, -1)) / true.norm(dim=(-2, -1))
            expected += (convergence.mean() + (estimated.log() - true.log()).abs().mean()).item() / 3
        assert found[index] == pytest.approx(expected, rel=1e-4)  # logarithms of small float32 magnitudes


def test_log_wmse_matches_a_filter_in_the_time_domain():
    """scipy's own designs, applied sample by sample in float64: forwards, and the low pass backwards as well."""
    rate = 44100
    estimates, targets = pair()
    mixture = targets.sum(axis=1)
    found = np.asarray(
        losses.log_wmse(jnp.asarray(estimates), jnp.asarray(targets), jnp.asarray(mixture), sample_rate=rate)
    )
    high_pass = scipy.signal.butter(2, 120, "high", fs=rate, output="sos")
    low_pass = scipy.signal.butter(1, 10_000, "low", fs=rate, output="sos")
    shelf, peak = cookbook_filters(rate)

    def mean_square(waveform):
        padded = np.pad(waveform.astype(np.float64), [(30_000, 30_000), (0, 0)])
        for sections in (high_pass, shelf, peak, low_pass):
            padded = scipy.signal.sosfilt(sections, padded, axis=0)
        padded = scipy.signal.sosfilt(low_pass, padded[::-1], axis=0)
        return (padded**2).sum(axis=0) / len(waveform)

    for example, source in np.ndindex(*SHAPE[:2]):
        error = mean_square(estimates[example, source] - targets[example, source]) / mean_square(mixture[example])
        expected = (4 * np.log(error + 1e-8)).mean()
        # The published filter is cut to 4000 samples and this one is not: 0.003 dB below 12 kHz.
        assert found[example, source] == pytest.approx(expected, abs=4e-3)


def cookbook_filters(rate):
    """The shelf and the peak from their analogue prototypes by scipy's bilinear transform, prewarped."""

    def digital(numerator, denominator, centre_hz):
        warped = 2 * rate * np.tan(np.pi * centre_hz / rate)
        scaled = [[c / warped**power for c, power in zip(p, (2, 1, 0), strict=True)] for p in (numerator, denominator)]
        return scipy.signal.tf2sos(*scipy.signal.bilinear(*scaled, fs=rate))

    gain = 10 ** (5 / 40)
    q = 2**-0.5
    shelf = digital(
        [gain * gain, gain * np.sqrt(gain) / q, gain], [1, np.sqrt(gain) / q, gain], 1500
    )  # H(s) = A (A s^2 + sqrt(A)/Q s + 1) / (s^2 + sqrt(A)/Q s + A)
    gain, q = 10 ** (2.5 / 40), 1.5 * 2**-0.5
    return shelf, digital([1, gain / q, 1], [1, 1 / (gain * q), 1], 500)


# The response of the impulse response in torch-log-wmse 1.1.0 (filter_ir.f32), by its Fourier transform.
PUBLISHED_RESPONSE_DB = {
    50: -15.319, 100: -4.786, 500: 2.534, 1500: 2.644, 3000: 4.236, 8000: 1.195, 10000: -1.015, 15000: -9.710,
}  # fmt: skip


def test_the_hearing_response_is_that_of_the_published_filter():
    found = 20 * np.log10(hearing_response(np.array(list(PUBLISHED_RESPONSE_DB), float)))
    # 4000 samples do not hold the whole of the published filter's response.
    np.testing.assert_allclose(found, list(PUBLISHED_RESPONSE_DB.values()), atol=0.01)


@pytest.mark.parametrize("name", waveform_losses())
@pytest.mark.parametrize("silent", ["targets", "estimates", "both", "one sample"])
def test_losses_and_gradients_are_finite_on_silence(name, silent):
    estimates, targets = (jnp.asarray(waveforms) for waveforms in pair())
    if silent in ("targets", "both"):
        targets = jnp.zeros_like(targets)
    if silent in ("estimates", "both"):
        estimates = jnp.zeros_like(estimates)
    if silent == "one sample":
        estimates = targets = jnp.zeros_like(targets).at[:, :, 100].set(1e-20)
    value, gradient = jax.jit(jax.value_and_grad(lambda e: waveform_losses()[name](e, targets).sum()))(estimates)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", waveform_losses())
def test_gradients_match_finite_differences(name):
    estimates, targets = (waveforms[:1, :1, :2200] for waveforms in pair())
    direction = np.random.default_rng(3).standard_normal(estimates.shape)
    with jax.enable_x64(True):
        # In float64, where a difference of 1e-6 has eight digits left.
        loss = jax.jit(partial(lambda e, t: waveform_losses()[name](e, t).sum(), t=jnp.asarray(targets, jnp.float64)))
        at = jnp.asarray(estimates, jnp.float64)
        slope = (jax.grad(loss)(at) * direction).sum()
        step = 1e-6
        expected = (loss(at + step * direction) - loss(at - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(expected), rel=1e-4)  # |x| and log|x| bend within the step


@pytest.mark.parametrize("name", ["negative_sdr", "negative_si_sdr", "log_wmse", "l1"])
def test_gradient_descent_on_the_loss_approaches_the_targets(name):
    estimates, targets = (jnp.asarray(waveforms) for waveforms in pair())
    loss = waveform_losses()[name]
    gradient = jax.jit(jax.grad(lambda e: loss(e, targets).sum()))(estimates)
    better = estimates - 1e-3 * gradient / jnp.abs(gradient).max()
    assert (loss(better, targets) < loss(estimates, targets)).all()
