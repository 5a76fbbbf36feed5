"""The Wave-U-Nets: lengths, forms, clipping, and what is refused. What other programs compute is in tests/parity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import ConfigError
from jaxsep.models.convolutions_1d import convolve, convolve_and_halve
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_unet import M1, M4, M7, WaveUNet, WaveUNetConfig
from jaxsep.models.wave_unet_resampled import (
    RESAMPLED,
    RectifiedGroupNorm,
    ResampledWaveUNet,
    ResampledWaveUNetConfig,
    Resampling,
    low_pass,
)
from jaxsep.weights.rules import SPECS

SMALL = WaveUNetConfig(n_sources=2, levels=3, filters=3, output_activation="linear")
SMALL_RESAMPLED = ResampledWaveUNetConfig(n_sources=2, filters=(8, 16))


@pytest.mark.parametrize(
    ("config", "asked", "expected"),
    [
        (M4, 16384, (147443, 16389)),
        (M7, 768 * 127 + 1024, (233459, 102405)),
        (M1, 16384, (16384, 16384)),
        (RESAMPLED, 2 * 44100, (97961, 88409)),
    ],
)
def test_published_lengths_follow_from_the_layers(config, asked, expected):
    """The numbers that get_padding of the original and check_padding of the redesign give."""
    assert config.lengths(asked) == expected
    assert config.output_length(expected[0]) == expected[1]


@pytest.mark.parametrize("config", [SMALL, SMALL.model_copy(update={"context": False}), SMALL_RESAMPLED])
def test_networks_give_as_many_samples_as_their_config_says(config):
    network = (WaveUNet if isinstance(config, WaveUNetConfig) else ResampledWaveUNet)(config)
    for asked in (1, 100):
        lengths = config.lengths(asked)
        shape = jax.eval_shape(
            lambda key: network.init_with_output(key, jnp.zeros((2, 3, lengths.input, 2)), train=False)[0],  # noqa: B023
            jax.random.key(0),
        ).shape
        assert shape == (2, 3, 2, lengths.output, 2)
        assert lengths.output >= asked


@pytest.mark.parametrize("config", [SMALL, SMALL_RESAMPLED])
@pytest.mark.parametrize("more", [-1, 1, 2, -10_000])
def test_lengths_that_do_not_come_out_even_are_refused_with_the_next_that_do(config, more):
    lengths = config.lengths(100)
    with pytest.raises(ConfigError, match=r"do not come out even at every level of the network; give (\d+)") as raised:
        config.output_length(lengths.input + more)
    advised = int(str(raised.value).split("; give ")[1].split(",")[0])
    assert advised > lengths.input + more and config.output_length(advised) >= 1


def test_other_channels_are_refused():
    with pytest.raises(ConfigError, match="has 1 channels, and the network's config says 2"):
        jax.eval_shape(
            lambda: WaveUNet(SMALL).init(jax.random.key(0), jnp.zeros((SMALL.lengths(1).input, 1)), train=False)
        )


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (WaveUNetConfig, {"n_sources": 2, "kernel_size": 14}, "kernel sizes must be odd"),
        (WaveUNetConfig, {"n_sources": 1}, "the difference of one source"),
        (ResampledWaveUNetConfig, {"kernel_size": 4}, "kernel_size must be odd"),
        (ResampledWaveUNetConfig, {"filters": (8, 12)}, "must be multiples of 8"),
    ],
)
def test_shapes_that_cannot_be_are_refused(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        config.parse(changes, where="the test")


def cutting(**lengths):
    return {"procedure": {"cutting": lengths}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": {"kind": "magnitude", "stft": {}, "bins": 9}}, "works on waveforms, and the domain is 'magnitude'"),
        ({"channels": 1}, r"channels \(= 1\) are not the config's \(= 2\)"),
        (cutting(chunk_length=147444, chunk_hop=16384), "The mixture has 147444 samples"),
        (
            cutting(chunk_length=147443, estimate_length=147443, chunk_hop=16389),
            "the network estimates 16389, and estimate_length is 147443",
        ),
        (
            cutting(chunk_length=147443, estimate_length=16389, chunk_hop=9, last="shifted"),
            "a last chunk can be shifted where",
        ),
    ],
)
def test_specs_that_do_not_fit_the_network_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ModelSpec.parse({**SPECS["wave-unet-m4"].model_dump(), **change}, where="the test")


@pytest.mark.parametrize("network", [WaveUNet(SMALL), ResampledWaveUNet(SMALL_RESAMPLED)])
def test_estimates_are_clipped_but_not_in_training(network):
    config = network.config
    mixture = 40 * jax.random.normal(jax.random.key(1), (1, config.lengths(20).input, 2))
    variables = jax.jit(partial(network.init, train=False))(jax.random.key(0), mixture)
    variables = jax.tree.map(lambda leaf: 3 * leaf, variables)
    free, clipped = (jax.jit(partial(network.apply, train=train))(variables, mixture) for train in (True, False))
    assert np.abs(free).max() > 1
    if isinstance(network, WaveUNet):
        # The first estimate is clipped before the second is the rest of the mixture.
        middle = (mixture.shape[1] - free.shape[2]) // 2
        rest = mixture[:, middle : middle + free.shape[2]]
        # Of large numbers that cancel, in float32.
        np.testing.assert_allclose(free.sum(axis=1), rest, atol=1e-6 * np.abs(free).max())
        first = np.clip(free[:, 0], -1, 1)
        np.testing.assert_array_equal(clipped, np.clip(np.stack([first, rest - first], axis=1), -1, 1))
    else:
        np.testing.assert_array_equal(clipped, np.clip(free, -1, 1))


def test_the_norm_is_exact_where_most_of_a_chunk_is_silent():
    """It and its gradients, against float64."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 100_000, 16)).astype(np.float32) * 0.1 + 0.3
    maps[:, 5000:] = maps[:, 5000:5001]
    shift, scale, bias = rng.random((3, 16), np.float32)
    weights = rng.standard_normal(maps.shape).astype(np.float32)

    @jax.jit
    def value_and_gradients(weights, *arguments):
        def normalise(maps, shift, scale, bias):
            parameters = {"scale": scale, "bias": bias}
            return RectifiedGroupNorm(1e-5).apply({"params": parameters}, maps, shift[None, None])

        value, pull = jax.vjp(normalise, *arguments)
        return value, *pull(weights)

    def over_groups(values):
        return np.mean(values.reshape(2, -1, 2, 8), axis=(1, 3)).repeat(8, axis=-1)[:, None]

    shifted = maps.astype(np.float64) + shift
    centred = shifted - over_groups(shifted)
    deviation = np.sqrt(over_groups(centred**2) + 1e-5)
    normalised = centred / deviation
    passed = np.where(normalised * scale + bias > 0, weights.astype(np.float64), 0)
    pulled = passed * scale
    by_maps = (pulled - over_groups(pulled) - normalised * over_groups(pulled * normalised)) / deviation
    expected = (
        np.maximum(normalised * scale + bias, 0),
        by_maps,
        by_maps.sum(axis=(0, 1)),
        (passed * normalised).sum(axis=(0, 1)),
        passed.sum(axis=(0, 1)),
    )
    found = value_and_gradients(*map(jnp.asarray, (weights, maps, shift, scale, bias)))
    for ours, exact in zip(found, expected, strict=True):
        # Some roundings of float32 (1e-7 is seen); sums in one go, as linen's, are 1e-5 away.
        assert np.abs(ours - exact).max() < 5e-7 * np.abs(exact).max()


@pytest.mark.parametrize("stride", [2, 3, 4, 7, 15])
@pytest.mark.parametrize("shorter", [9, 17, 40])
@pytest.mark.parametrize("up", [False, True])
def test_a_change_of_the_rate_is_a_filter_between_zeros_or_before_a_choice(stride, shorter, up):
    """It and its derivative, against numpy's convolution in float64: of every sample, or with zeros between them."""
    taps = low_pass(stride)

    def by_numpy(maps):
        if not up:
            return np.convolve(np.pad(maps, 7, mode="reflect"), taps[::-1], mode="valid")[::stride]
        zeros = np.zeros((shorter + 16, stride))
        zeros[:, 0] = np.pad(maps, 8, mode="reflect")
        return np.convolve(zeros.ravel(), taps[::-1], mode="same")[8 * stride :][: stride * (shorter - 1) + 1]

    def resampled(maps):
        return Resampling(stride, up).apply({"params": {"filter": taps}}, maps[None, :, None])[0, :, 0]

    rng = np.random.default_rng(0)
    maps = rng.standard_normal(shorter if up else stride * (shorter - 1) + 1).astype(np.float32)
    found, pull = jax.vjp(jax.jit(resampled), jnp.asarray(maps))
    assert np.abs(found - by_numpy(maps.astype(np.float64))).max() < 1e-6  # fifteen products of about one
    weights = rng.standard_normal(found.shape).astype(np.float32)
    # What a linear function makes of each unit vector are the columns of its matrix.
    columns = np.stack([by_numpy(unit) for unit in np.eye(len(maps))])
    # As many products; those of reflected samples come on top.
    assert np.abs(pull(jnp.asarray(weights))[0] - columns @ weights.astype(np.float64)).max() < 2e-6


@pytest.mark.parametrize(("length", "size"), [(40, 15), (41, 15), (41, 4), (16, 15), (15, 15), (9, 1)])
def test_the_form_for_cpus_computes_what_decimation_leaves_and_its_derivatives(length, size):
    """Against the whole convolution and its automatic derivatives, in float64 on numpy's products for the values."""
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.standard_normal((2, length, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((size, 3, 5)), jnp.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(maps, np.float64), size, axis=1)
    by_numpy = np.einsum("btck,kco->bto", windows, np.asarray(kernel, np.float64))[:, ::2]
    weights = jnp.asarray(rng.standard_normal(by_numpy.shape), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, maps, kernel, weights):
        value, pull = jax.vjp(function, maps, kernel)
        return value, pull(weights)

    _, expected = value_and_gradients(lambda *both: convolve(*both)[:, ::2], maps, kernel, weights)
    for form in ("auto", "cpu", "native"):
        found, gradients = value_and_gradients(partial(convolve_and_halve, form=form), maps, kernel, weights)
        # Sums of up to 45 products of order one in float32.
        np.testing.assert_allclose(found, by_numpy, atol=2e-5)
        for ours, theirs in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("length", "channels", "features"), [(6, 16, 24), (5, 8, 8), (40, 3, 5)])
def test_the_gradient_of_a_convolution_in_its_form_for_cpus(length, channels, features, batch):
    """Against products of numpy's in float64, where the kernel is larger than the maps and where it is not."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((batch, length, channels)).astype(np.float32)
    kernel = rng.standard_normal((5, channels, features)).astype(np.float32)
    gradient = rng.standard_normal((batch, length - 4, features)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(maps.astype(np.float64), 5, axis=1)
    by_maps = np.zeros(maps.shape)
    for tap in range(5):
        by_maps[:, tap : tap + length - 4] += gradient.astype(np.float64) @ kernel[tap].T
    by_kernel = np.einsum("btck,btd->kcd", windows, gradient.astype(np.float64))
    for form in ("auto", "cpu", "native"):
        found, pull = jax.vjp(jax.jit(partial(convolve, form=form)), jnp.asarray(maps), jnp.asarray(kernel))
        # Sums of up to 120 products of order one in float32.
        np.testing.assert_allclose(found, np.einsum("btck,kcd->btd", windows, kernel), atol=5e-5)
        for ours, exact in zip(pull(jnp.asarray(gradient)), (by_maps, by_kernel), strict=True):
            np.testing.assert_allclose(ours, exact, atol=5e-5)
