"""A network on magnitudes: a moving window gives what the whole track gives, and the path around it is right."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise

from jaxsep.dsp.wiener import OPEN_UNMIX, WienerConfig
from jaxsep.errors import ConfigError, SeparationError
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNet
from jaxsep.separation.estimate import estimate_magnitudes, estimate_sources
from jaxsep.separation.separator import Model, Separator

N_FFT, HOP, FRAMES = 256, 64, 16


@cache
def unet_model(seed=0, **masks):
    """A small U-Net with random weights: 64 of 129 bins, segments of 16 frames."""
    spec = ModelSpec.parse(
        {
            "name": "small",
            "family": "unet",
            "config": {"n_sources": 3, "bins": 64, "filters": (3, 4)},
            "stems": ("a", "b", "c"),
            "sample_rate": 8000,
            "channels": 2,
            "bandwidth_hz": 2000.0,
            "stft": {"n_fft": N_FFT, "hop_length": HOP},
            "masks": masks,
            "chunking": {"chunk_length": FRAMES * HOP + N_FFT - HOP, "chunk_hop": FRAMES * HOP, "lead": N_FFT},
            "licence": "MIT",
            "provenance": "random",
        },
        where="the test",
    )
    module = UNet(spec.config, form="native")
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(seed), jnp.zeros((1, FRAMES, 64, 2)))
    rng = np.random.default_rng(seed)
    # Biases of zero and norms of one, as initialised, would hide mistakes.
    variables = jax.tree.map(
        lambda leaf: leaf if leaf.ndim > 1 else leaf + np.float32(0.1) * rng.uniform(0, 1, leaf.shape).astype("f"),
        variables,
    )
    return Model(module, variables, spec, "0" * 64)


estimate_whole = jax.jit(estimate_sources, static_argnames=("model", "spec", "wiener"))


def whole(model, mixture, wiener=None):
    return np.asarray(
        estimate_whole(model.variables, jnp.asarray(mixture), model=model.module, spec=model.spec, wiener=wiener)
    )


# One sample, one chunk, just over one, and many; with every batch size the last batch is filled up differently.
LENGTHS = (1, FRAMES * HOP - N_FFT, FRAMES * HOP - N_FFT + 1, 5000)


@pytest.mark.parametrize("extension", ["zeros", "average"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_streamed_stems_equal_those_of_the_whole_track(extension, batch_size):
    model = unet_model(extension=extension)
    separator = Separator(model, batch_size=batch_size)
    for length in LENGTHS:
        mixture = noise(length)
        stems = separator.separate(mixture, 8000).stems
        expected = whole(model, mixture)
        assert expected.shape == (3, length, 2)
        # The same float32 arithmetic, fused and added in another order.
        np.testing.assert_allclose(np.stack(list(stems.values())), expected, atol=2e-6)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("softmask", [True, False])
def test_streamed_wiener_filter_equals_that_of_the_whole_track(iterations, softmask):
    model = unet_model()
    config = WienerConfig(iterations=iterations, softmask=softmask)
    separator = Separator(model, filter=config, batch_size=2)
    assert separator.passes == iterations + 1
    for length in LENGTHS:
        # Loud enough that the filter scales the mixture down.
        mixture = 5 * noise(length)
        stems = separator.separate(mixture, 8000).stems
        # Statistics are summed in float64 here and in float32 there; each iteration passes their rounding on.
        np.testing.assert_allclose(np.stack(list(stems.values())), whole(model, mixture, config), atol=1e-4)


@pytest.mark.parametrize("wiener", [None, WienerConfig(iterations=2)])
def test_channels_are_separated_in_groups_each_by_itself(wiener):
    """Five channels through a stereo model: two pairs, and the fifth twice over, of which the mean comes back."""
    model = unet_model()
    separator = Separator(model, filter=wiener or "auto", batch_size=2)
    mixture = noise(5000, channels=5)
    together = np.stack(list(separator.separate(mixture, 8000).stems.values()))
    for channels in ([0, 1], [2, 3], [4, 4]):
        alone = np.stack(list(separator.separate(np.ascontiguousarray(mixture[:, channels]), 8000).stems.values()))
        if channels == [4, 4]:
            alone, channels = alone.mean(axis=2, keepdims=True), [4]
        # The same compiled functions on the same numbers; statistics are summed in the same order.
        np.testing.assert_allclose(together[:, :, channels], alone, atol=1e-6)


def test_the_filters_scale_takes_in_what_lies_above_the_band():
    model = unet_model()
    time = np.arange(4000) / 8000
    # A tone far above the band is the loudest: the scale depends on it alone, and with it the regularisation.
    mixture = 0.001 * noise(4000) + 5 * np.sin(2 * np.pi * 3500 * time)[:, None].astype(np.float32)
    config = WienerConfig(eps=1e-3)
    stems = Separator(model, filter=config).separate(mixture, 8000).stems
    expected = whole(model, mixture, config)
    difference = np.stack(list(stems.values())) - expected
    assert np.abs(difference).max() < 1e-3 * np.abs(expected).max()
    quiet = whole(model, 0.001 * noise(4000), config)
    assert np.abs(quiet - expected).max() > 0.01 * np.abs(expected).max()


def test_selected_stems_are_those_of_the_full_set():
    model = unet_model()
    mixture = noise(3000)
    for wiener in ("auto", "wiener"):
        every = Separator(model, filter=wiener).separate(mixture, 8000).stems
        some = Separator(model, stems=["c", "a"], filter=wiener).separate(mixture, 8000).stems
        assert list(some) == ["c", "a"]
        for name, stem in some.items():
            np.testing.assert_allclose(stem, every[name], atol=1e-6)


def test_stems_sum_to_the_mixture_below_the_bandwidth():
    model = unet_model()
    mixture = noise(4000)
    total = whole(model, mixture).sum(axis=0)
    window = np.hanning(4000)
    missing = np.abs(np.fft.rfft(window * (mixture - total)[:, 0]))
    present = np.abs(np.fft.rfft(window * mixture[:, 0]))
    edge = len(missing) // 2
    # Masks sum to one in the band of half the spectrum. A Hann frame leaks a few bins at the band's edge.
    assert missing[: edge - 100].max() < 1e-3 * present.max()
    np.testing.assert_allclose(missing[edge + 100 :], present[edge + 100 :], atol=0.05 * present.max())


def test_whole_tracks_come_in_batches_and_have_gradients():
    model = unet_model()
    mixtures = np.stack([noise(1500, seed=seed) for seed in range(2)])
    together = whole(model, mixtures)
    for mixture, estimates in zip(mixtures, together, strict=True):
        np.testing.assert_allclose(estimates, whole(model, mixture), atol=2e-6)

    def energy(variables):
        estimates = estimate_sources(variables, jnp.asarray(mixtures), model=model.module, spec=model.spec)
        return jnp.square(estimates).sum()

    gradients = jax.jit(jax.grad(energy))(model.variables)["params"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradients))


def test_padding_of_the_last_segment_never_reaches_the_result():
    model = unet_model()
    rng = np.random.default_rng(0)
    spectrogram = (rng.standard_normal((40, 129, 2)) + 1j * rng.standard_normal((40, 129, 2))).astype(np.complex64)
    estimate = jax.jit(lambda s: estimate_magnitudes(model.variables, s, model=model.module, spec=model.spec))
    magnitudes = estimate(spectrogram)
    assert magnitudes.shape == (3, 40, 64, 2)
    for first in (0, 16):
        segment = np.abs(spectrogram[None, first : first + 16, :64])
        expected = model.module.apply(model.variables, jnp.asarray(segment), train=False)[0]
        np.testing.assert_allclose(magnitudes[:, first : first + 16], expected, atol=1e-5)
    last = np.zeros((1, 16, 64, 2), np.float32)
    last[0, :8] = np.abs(spectrogram[32:, :64])
    expected = model.module.apply(model.variables, jnp.asarray(last), train=False)[0, :, :8]
    np.testing.assert_allclose(magnitudes[:, 32:], expected, atol=1e-5)


def test_spectrograms_of_another_shape_or_not_finite_are_refused():
    model = unet_model()

    def estimate(spectrogram):
        return estimate_magnitudes(model.variables, spectrogram, model=model.module, spec=model.spec)

    good = jnp.zeros((16, 129, 2), jnp.complex64)
    with pytest.raises(SeparationError, match="has 128 bins and 2 channels"):
        estimate(good[:, :128])
    with pytest.raises(SeparationError, match="1 channels"):
        estimate(good[..., :1])
    with pytest.raises(SeparationError, match="not finite"):
        estimate(good.at[3, 4, 1].set(jnp.nan))


def test_mixtures_with_other_channels_are_refused():
    model = unet_model()
    with pytest.raises(SeparationError, match="has 1 channels but 'small' takes 2"):
        estimate_sources(model.variables, jnp.zeros((100, 1)), model=model.module, spec=model.spec)


def test_a_chunk_that_fails_in_a_lower_precision_is_filtered_from_magnitudes_in_float32(caplog):
    model = unet_model()
    # Magnitudes beyond 65504, the largest value of float16, and well within float32.
    mixture = 1e4 * noise(700)
    stems = Separator(model, filter="wiener", precision="float16").separate(mixture, 8000).stems
    expected = Separator(model, filter="wiener").separate(mixture, 8000).stems
    assert "computing it in float32" in caplog.text
    for name, stem in stems.items():
        # Both are computed in float32, by programs that differ in nothing.
        np.testing.assert_allclose(stem, expected[name], atol=1e-6 * np.abs(mixture).max())


@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_a_filter_in_blocks_takes_one_pass_and_equals_that_of_the_whole_track(iterations):
    """Open-Unmix's, in blocks of 7 frames beside chunks of 16; each block has statistics and a scale of its own."""
    model = unet_model()
    # Seven frames say little of where sources are: with its own eps of 1e-10 rounding grows a thousandfold.
    config = OPEN_UNMIX.model_copy(update={"block_frames": 7, "iterations": iterations, "eps": 1e-4})
    separator = Separator(model, filter=config, batch_size=2)
    assert separator.passes == 1
    for length in LENGTHS:
        mixture = 5 * noise(length)
        stems = separator.separate(mixture, 8000).stems
        # Both sum the same few frames in float32; an iteration passes their rounding on.
        np.testing.assert_allclose(np.stack(list(stems.values())), whole(model, mixture, config), atol=1e-4)


def test_filters_that_give_a_residual_are_refused():
    with pytest.raises(ConfigError, match="stems alone"):
        Separator(unet_model(), filter=WienerConfig(residual=True))
