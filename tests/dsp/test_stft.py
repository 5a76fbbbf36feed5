"""The transforms against torch, against float64 numpy written from the formulas, and against what they must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsep.dsp.stft import STFTConfig, frame_count, istft, stft
from jaxsep.errors import ConfigError

# A float32 transform of n_fft terms rounds log2(n_fft) times: a few 1e-7 of the largest value.
FLOAT32_TRANSFORM = 2e-6


def music_like(length, channels=2, seed=0):
    return np.random.default_rng(seed).standard_normal((length, channels)).astype(np.float32)


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def torch_window(config):
    return torch.hann_window(config.n_fft, dtype=torch.float64)


def torch_stft(audio, config):
    spectrum = torch.stft(
        torch.from_numpy(audio.T.astype(np.float64)),
        config.n_fft,
        config.hop_length,
        window=torch_window(config),
        center=True,
        pad_mode="reflect",
        normalized=config.normalized,
        return_complex=True,
    )
    return spectrum.permute(2, 1, 0).numpy()


def numpy_spleeter_stft(audio, config):
    """Float64, frame by frame, as deezer/spleeter describes it."""
    window = np.hanning(config.n_fft + 1)[:-1]
    padded = np.concatenate([np.zeros((config.n_fft, audio.shape[1])), audio, np.zeros((config.n_fft, audio.shape[1]))])
    frames = int(np.ceil((len(audio) + config.n_fft) / config.hop_length))
    starts = [frame * config.hop_length for frame in range(frames)]
    return np.stack([np.fft.rfft(window[:, None] * padded[start : start + config.n_fft], axis=0) for start in starts])


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(
    ("n_fft", "hop_length", "length"), [(4096, 1024, 20_000), (1024, 768, 7777), (512, 128, 1025), (64, 32, 33)]
)
def test_stft_matches_torch(n_fft, hop_length, length, normalized):
    config = STFTConfig(n_fft=n_fft, hop_length=hop_length, convention="torch", normalized=normalized)
    audio = music_like(length)
    expected = torch_stft(audio, config)
    ours = stft(jnp.asarray(audio), config)
    assert ours.shape == expected.shape == (frame_count(length, config), config.bins, 2)
    assert relative_error(ours, expected) < FLOAT32_TRANSFORM


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("extra", [-100, 0, 77])
def test_istft_matches_torch_for_spectrograms_that_no_audio_has(normalized, extra):
    config = STFTConfig(n_fft=512, hop_length=128, convention="torch", normalized=normalized)
    rng = np.random.default_rng(1)
    frames, length = 12, 11 * 128 + extra
    spectrum = rng.standard_normal((frames, config.bins, 2)) + 1j * rng.standard_normal((frames, config.bins, 2))
    expected = torch.istft(
        torch.from_numpy(spectrum).permute(2, 1, 0),
        config.n_fft,
        config.hop_length,
        window=torch_window(config),
        normalized=normalized,
        length=length,
    ).T.numpy()
    ours = istft(jnp.asarray(spectrum, jnp.complex64), config, length=length)
    # The last hop is divided by as little as one squared window's tail, which magnifies rounding there.
    weights = np.clip(np.abs(expected), 1, None)
    assert (np.abs(np.asarray(ours) - expected) / weights).max() < 1e-4
    assert relative_error(ours[: 10 * 128], expected[: 10 * 128]) < FLOAT32_TRANSFORM


@pytest.mark.parametrize(
    ("n_fft", "hop_length", "length"),
    [*((4096, 1024, length) for length in (1, 1000, 4096, 10_240, 10_241)), (1024, 768, 1), (1024, 768, 7777)],
)
def test_spleeter_stft_matches_float64_numpy(n_fft, hop_length, length):
    config = STFTConfig(n_fft=n_fft, hop_length=hop_length)
    audio = music_like(length)
    expected = numpy_spleeter_stft(audio.astype(np.float64), config)
    ours = stft(jnp.asarray(audio), config)
    assert ours.shape == expected.shape
    assert relative_error(ours, expected) < FLOAT32_TRANSFORM


def test_spleeter_istft_is_the_windowed_overlap_add_times_two_thirds():
    config, frames = STFTConfig(), 9
    rng = np.random.default_rng(2)
    spectrum = rng.standard_normal((frames, config.bins, 1)) + 1j * rng.standard_normal((frames, config.bins, 1))
    window = np.hanning(config.n_fft + 1)[:-1]
    audio = np.zeros((frames - 1) * config.hop_length + config.n_fft)
    for frame in range(frames):
        start = frame * config.hop_length
        audio[start : start + config.n_fft] += window * np.fft.irfft(spectrum[frame, :, 0])
    expected = audio[config.n_fft : config.n_fft + 3000] * 2 / 3
    ours = istft(jnp.asarray(spectrum, jnp.complex64), config, length=3000)
    assert relative_error(ours[:, 0], expected) < FLOAT32_TRANSFORM


@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 768), (1024, 512), (500, 200)])
def test_spleeter_istft_is_the_windowed_overlap_add_over_the_squared_windows(n_fft, hop_length):
    """Where windows overlap by another part: `tf.signal.inverse_stft_window_fn`, Griffin and Lim's least squares."""
    config, frames = STFTConfig(n_fft=n_fft, hop_length=hop_length), 9
    rng = np.random.default_rng(5)
    spectrum = rng.standard_normal((frames, config.bins, 1)) + 1j * rng.standard_normal((frames, config.bins, 1))
    window = np.hanning(n_fft + 1)[:-1]
    audio, squares = np.zeros((2, (frames - 1) * hop_length + n_fft))
    for frame in range(frames):
        part = slice(frame * hop_length, frame * hop_length + n_fft)
        audio[part] += window * np.fft.irfft(spectrum[frame, :, 0])
        squares[part] += window**2
    inner = slice(n_fft, (frames - 1) * hop_length)
    expected = audio[inner] / squares[inner]
    ours = istft(jnp.asarray(spectrum, jnp.complex64), config, length=len(expected))
    assert relative_error(ours[:, 0], expected) < FLOAT32_TRANSFORM


@settings(deadline=None, max_examples=15)
@given(
    length=st.integers(1, 5000),
    shape=st.sampled_from([(256, 64), (512, 128), (128, 32), (256, 192), (100, 30)]),
    convention=st.sampled_from(["spleeter", "torch"]),
    normalized=st.booleans(),
)
def test_istft_inverts_stft_for_every_length(length, shape, convention, normalized):
    config = STFTConfig(
        n_fft=shape[0], hop_length=shape[1], convention=convention, normalized=normalized and convention == "torch"
    )
    if convention == "torch":
        length = max(length, config.n_fft // 2 + 1)
    audio = music_like(length)
    there_and_back = jax.jit(lambda audio: istft(stft(audio, config), config, length=length))
    restored = np.asarray(there_and_back(jnp.asarray(audio)))
    if convention == "torch" and 2 * config.hop_length > config.n_fft:
        # Half a hop after the centre of the last frame, nothing but the end of one window is left, or nothing at all:
        # torch.istft refuses such lengths.
        sound = length // config.hop_length * config.hop_length + config.hop_length // 2
        audio, restored = audio[:sound], restored[:sound]
    # 'torch' divides the last samples by the rising flank of one squared window: rounding there is magnified up to
    # (1 / 0.146) for windows at 75 % overlap. At 25 %, both divide by a squared window of 0.021 in places.
    assert np.abs(restored - audio).max() < 2e-5


@pytest.mark.parametrize("convention", ["spleeter", "torch"])
def test_transforms_are_vmappable_and_jittable(convention):
    config = STFTConfig(n_fft=256, hop_length=64, convention=convention)
    audio = jnp.asarray(np.stack([music_like(1000, seed=seed) for seed in range(3)]))
    together = stft(audio, config)
    apart = jax.jit(jax.vmap(lambda one: stft(one, config)))(audio)
    # jit and vmap may fuse differently; the arithmetic is the same to rounding.
    np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(
        istft(together, config, length=1000), jax.vmap(lambda one: istft(one, config, length=1000))(apart), atol=1e-5
    )


@pytest.mark.parametrize("convention", ["spleeter", "torch"])
def test_gradients_match_finite_differences(convention):
    config = STFTConfig(n_fft=64, hop_length=16, convention=convention)
    with jax.enable_x64(True):
        audio = jnp.asarray(music_like(100).astype(np.float64))
        weights = jnp.asarray(np.random.default_rng(3).standard_normal((100, 2)))

        def energy(audio):
            spectrum = stft(audio, config)
            return (weights * istft(spectrum * jnp.abs(spectrum), config, length=100)).sum()

        direction = jnp.asarray(np.random.default_rng(4).standard_normal((100, 2)))
        gradient = (jax.grad(energy)(audio) * direction).sum()
        step = 1e-6
        difference = (energy(audio + step * direction) - energy(audio - step * direction)) / (2 * step)
        # A central difference in float64 is exact to step ** 2 and to rounding divided by the step.
        np.testing.assert_allclose(gradient, difference, rtol=1e-6)


def test_audio_too_short_to_reflect_is_refused_by_name():
    with pytest.raises(ConfigError, match="too short to be reflected"):
        stft(jnp.zeros((128, 2)), STFTConfig(n_fft=256, hop_length=64, convention="torch"))


@pytest.mark.parametrize(
    "values", [{"n_fft": 1000, "hop_length": 751}, {"n_fft": 512, "hop_length": 512}, {"normalized": True}, {"hop": 3}]
)
def test_transforms_that_cannot_be_are_refused(values):
    with pytest.raises(ConfigError, match="STFTConfig"):
        STFTConfig.parse(values, where="the test")
