"""The U-Net by itself: parameters, shapes, modes and errors. Its values are compared in parity/test_unet_pytorch.py."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxsep.errors import ConfigError
from jaxsep.models import FAMILIES
from jaxsep.models.unet import PRESETS, SPLEETER_2STEMS, UNet, UNetConfig

# Narrow and shallow, to compile in a moment: what these tests ask does not depend on the number of blocks.
SMALL = UNetConfig(n_sources=2, bins=32, filters=(4, 6, 8))
# With the published number of blocks.
DEEP = UNetConfig(n_sources=2, bins=64, filters=(4, 8, 8, 16, 16, 16))


@functools.cache
def variables_of(config):
    """Kernels drawn by numpy, which costs no compilation; all else as it is initialised."""
    rng = np.random.default_rng(0)
    starts = {"scale": 1, "var": 1, "bias": 0, "mean": 0}

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return jnp.asarray(rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:3])), leaf.shape), jnp.float32)
        return jnp.full(leaf.shape, starts[name], jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(config))


def shapes_of(config, **fields):
    magnitude = jnp.zeros((config.stride, config.bins, config.channels))
    return jax.eval_shape(lambda: UNet(config, **fields).init(jax.random.key(0), magnitude, train=False))


@functools.partial(jax.jit, static_argnums=0)
def estimate(network, variables, magnitude):
    return network.apply(variables, magnitude, train=False)


def magnitude_of(config, *batch, frames=16, seed=0):
    shape = (*batch, frames, config.bins, config.channels)
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 30, shape), jnp.float32)


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def test_one_source_has_spleeters_parameters_less_the_norm_that_spleeter_drops():
    """Spleeter counts 9,823,749 trainable numbers: 1024 of them scale and shift a sixth norm that nothing reads."""
    shapes = shapes_of(SPLEETER_2STEMS)
    for source in ("source_0", "source_1"):
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"][source]))
        assert count == 9_823_749 - 2 * 512


def test_variables_have_the_names_and_shapes_that_weights_are_mapped_to():
    shapes = shapes_of(SPLEETER_2STEMS)
    expected = {}
    encoder = [(2, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    decoder = [(256, 512), (128, 512), (64, 256), (32, 128), (16, 64), (1, 32)]  # output channels first
    for m in range(2):
        blocks = [(f"encoder_{i}", pair, pair[1], i < 5) for i, pair in enumerate(encoder)]
        blocks += [(f"decoder_{i}", pair, pair[0], True) for i, pair in enumerate(decoder)]
        for block, pair, features, has_norm in blocks:
            expected[f"params/source_{m}/{block}/conv/kernel"] = (5, 5, *pair)
            expected[f"params/source_{m}/{block}/conv/bias"] = (features,)
            if has_norm:
                expected |= {f"params/source_{m}/{block}/norm/{name}": (features,) for name in ("scale", "bias")}
                expected |= {f"batch_stats/source_{m}/{block}/norm/{name}": (features,) for name in ("mean", "var")}
        expected |= {f"params/source_{m}/mask/kernel": (4, 4, 1, 2), f"params/source_{m}/mask/bias": (2,)}
    assert {path: leaf.shape for path, leaf in paths(shapes).items()} == expected


def test_parameters_start_as_keras_starts_them():
    config = UNetConfig(n_sources=1, bins=4, filters=(8, 16))
    variables = UNet(config).init(jax.random.key(0), jnp.zeros((4, 4, 2)), train=False)
    starts = {"scale": 1, "var": 1, "bias": 0, "mean": 0}
    for path, leaf in paths(variables).items():
        name = path.rsplit("/", 1)[1]
        if name != "kernel":
            assert jnp.all(leaf == starts[name]), path
            continue
        # He uniform, the fan-in counted from the last axis but one.
        limit = np.sqrt(6 / np.prod(leaf.shape[:3]))
        assert jnp.abs(leaf).max() <= limit, path
        if leaf.size > 300:  # all 300 draws below 0.95 of the limit: one chance in five million
            assert jnp.abs(leaf).max() > 0.95 * limit, path


@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_every_source_gets_the_mixtures_shape_and_images_do_not_mix(batch):
    config, variables = SMALL, variables_of(SMALL)
    magnitude = magnitude_of(config, *batch)
    estimates = estimate(UNet(config), variables, magnitude)
    assert estimates.shape == (*batch, 2, 16, config.bins, config.channels)
    assert estimates.dtype == jnp.float32
    flat, images = estimates.reshape(-1, *estimates.shape[len(batch) :]), magnitude.reshape(-1, *magnitude.shape[-3:])
    for ours, image in zip(flat, images, strict=True):
        alone = estimate(UNet(config), variables, image)
        # Another batch size may take another form of a convolution: float32 rounding through thirteen layers.
        np.testing.assert_allclose(ours, alone, atol=1e-5 * float(alone.max()))


def test_masks_stay_between_nothing_and_the_mixture():
    magnitude = magnitude_of(SMALL, 1)
    estimates = estimate(UNet(SMALL), variables_of(SMALL), magnitude)
    assert jnp.all(estimates >= 0)
    assert jnp.all(estimates <= magnitude[:, None])


def test_softmax_masks_sum_to_the_mixture():
    config = SMALL.model_copy(update={"mask": "softmax", "n_sources": 3})
    magnitude = magnitude_of(config, 2)
    estimates = estimate(UNet(config), variables_of(config), magnitude)
    # Three float32 products and sums: a few units in the last place, 6e-8 each.
    np.testing.assert_allclose(estimates.sum(axis=1), magnitude, rtol=1e-6)
    assert float(jnp.std(estimates[:, 0] / magnitude)) > 1e-3


@pytest.mark.parametrize(("frames", "bins"), [(64, 64), (128, 192), (64, 320)])
def test_any_multiple_of_64_frames_and_bins_runs(frames, bins):
    config = DEEP.model_copy(update={"bins": bins})
    # Fully convolutional: the parameters do not know the number of bins.
    estimates = estimate(UNet(config), variables_of(DEEP), magnitude_of(config, frames=frames))
    assert estimates.shape == (2, frames, bins, 2)
    assert jnp.all(jnp.isfinite(estimates))


@pytest.mark.parametrize("frames", [65, 32, 0])
def test_frames_that_do_not_halve_six_times_are_refused(frames):
    with pytest.raises(ConfigError, match=f"has {frames} frames.*multiple of 64"):
        UNet(DEEP).apply(variables_of(DEEP), jnp.zeros((frames, 64, 2)), train=False)


@pytest.mark.parametrize(("bins", "channels"), [(128, 2), (64, 1)])
def test_a_magnitude_that_does_not_fit_the_config_is_refused(bins, channels):
    with pytest.raises(ConfigError, match=f"{bins} bins and {channels} channels.* 64 and 2"):
        UNet(DEEP).apply(variables_of(DEEP), jnp.zeros((64, bins, channels)), train=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": 1000}, "bins.*multiple of 64"),
        ({"mask": "softmax", "n_sources": 1}, "softmax over one source"),
        ({"filters": (16,)}, "filters"),
        ({"encoder_activation": "gelu"}, "encoder_activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"kernels": 5}, "unknown key 'kernels'"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        UNetConfig.parse({"n_sources": 2, **change}, where="a test's config")


def test_presets_are_the_published_forms():
    facts = {
        name: (c.n_sources, c.bins, c.encoder_activation, c.decoder_activation, c.mask) for name, c in PRESETS.items()
    }
    assert facts == {
        "2stems": (2, 1024, "leaky_relu", "relu", "sigmoid"),
        "4stems": (4, 1024, "elu", "elu", "sigmoid"),
        "5stems": (5, 1024, "elu", "elu", "softmax"),
        "2stems-16kHz": (2, 1536, "leaky_relu", "relu", "sigmoid"),
        "4stems-16kHz": (4, 1536, "elu", "elu", "sigmoid"),
        "5stems-16kHz": (5, 1536, "elu", "elu", "softmax"),
        "musdb_config": (4, 1024, "elu", "elu", "sigmoid"),
    }
    for config in PRESETS.values():
        assert config.filters == (16, 32, 64, 128, 256, 512)
        assert (config.kernel_size, config.norm_epsilon, config.norm_momentum) == (5, 1e-3, 0.99)
        assert UNetConfig.parse(config.model_dump(), where="its own dump") == config


def test_the_family_names_what_others_build_the_model_with():
    family = FAMILIES["unet"]
    assert family.domain == "magnitude"
    assert family.module(family.config(n_sources=2)) == UNet(UNetConfig(n_sources=2))


@functools.partial(jax.jit, static_argnums=0)
def train(config, variables, magnitude, key):
    return UNet(config).apply(
        variables, magnitude, train=True, rngs={"dropout": jax.random.key(key)}, mutable=["batch_stats"]
    )


def test_dropout_follows_its_key_and_only_in_training():
    variables, magnitude = variables_of(SMALL), magnitude_of(SMALL, 2)
    first, again, other = (train(SMALL, variables, magnitude, key)[0] for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    without = SMALL.model_copy(update={"dropout": 0.0})
    still, moved = (train(without, variables, magnitude, key)[0] for key in (0, 1))
    np.testing.assert_array_equal(still, moved)
    # No key is asked for where none is needed.
    jax.eval_shape(lambda: UNet(without).apply(variables, magnitude, train=True, mutable=["batch_stats"]))
    jax.eval_shape(lambda: UNet(SMALL).apply(variables, magnitude, train=False))


def test_training_moves_the_running_statistics_by_the_batchs_own():
    config = SMALL.model_copy(update={"dropout": 0.0, "norm_momentum": 0.9})
    variables, magnitude = variables_of(config), magnitude_of(config, 2)
    _, updated = train(config, variables, magnitude, 0)
    kernel, bias = (variables["params"]["source_1"]["encoder_0"]["conv"][name] for name in ("kernel", "bias"))
    raw = jax.lax.conv_general_dilated(
        magnitude, kernel, (2, 2), ((1, 2), (1, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ) + bias.reshape(1, 1, 1, -1)
    statistics = updated["batch_stats"]["source_1"]["encoder_0"]["norm"]
    raw = np.asarray(raw, np.float64)
    # Sums of some thousand float32 numbers.
    np.testing.assert_allclose(statistics["mean"], 0.1 * raw.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * raw.var(axis=(0, 1, 2)), rtol=1e-4)


def test_published_forms_train_with_their_statistics_frozen():
    config = SMALL.model_copy(update={"batch_statistics": SPLEETER_2STEMS.batch_statistics, "dropout": 0.0})
    variables, magnitude = variables_of(config), magnitude_of(config, 2)
    trained, updated = train(config, variables, magnitude, 0)
    np.testing.assert_array_equal(trained, estimate(UNet(config), variables, magnitude))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    moving = train(config.model_copy(update={"batch_statistics": True}), variables, magnitude, 0)[0]
    assert float(jnp.abs(moving - trained).max()) > 1e-3


def test_statistics_are_averaged_over_the_axis_of_devices():
    """Two halves of a batch on a named axis see the statistics of the whole batch."""
    config = SMALL.model_copy(update={"dropout": 0.0})
    variables, magnitude = variables_of(config), magnitude_of(config, 4)
    _, whole = train(config, variables, magnitude, 0)

    def half(magnitude):
        network = UNet(config, axis_name="devices")
        return network.apply(variables, magnitude, train=True, mutable=["batch_stats"])[1]

    halves = jax.jit(jax.vmap(half, axis_name="devices"))(magnitude.reshape(2, 2, *magnitude.shape[1:]))
    for path, leaf in paths(halves).items():
        expected = np.asarray(paths(whole)[path])
        # float32 rounding through up to thirteen layers of normalising by statistics.
        np.testing.assert_allclose(leaf[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=path)
        np.testing.assert_array_equal(leaf[0], leaf[1])


@pytest.mark.parametrize("form", ["native", "cpu"])
def test_jitted_and_mapped_over_segments_equals_the_batch(form):
    network, variables, magnitude = UNet(SMALL, form=form), variables_of(SMALL), magnitude_of(SMALL, 2)
    batch = estimate(UNet(SMALL), variables, magnitude)
    mapped = jax.jit(jax.vmap(lambda image: network.apply(variables, image, train=False)))(magnitude)
    # float32 rounding through thirteen layers.
    np.testing.assert_allclose(mapped, batch, atol=1e-5 * float(batch.max()))


def test_bfloat16_computes_near_float32_and_keeps_float32_at_its_edges():
    variables, magnitude = variables_of(SMALL), magnitude_of(SMALL, 1)
    started = shapes_of(SMALL, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(started)} == {jnp.dtype("float32")}
    exact = estimate(UNet(SMALL), variables, magnitude)
    network = UNet(SMALL, dtype=jnp.bfloat16)
    narrow, captured = jax.jit(lambda v, x: network.apply(v, x, train=False, capture_intermediates=True))(
        variables, magnitude
    )
    inside = captured["intermediates"]["source_0"]["decoder_2"]["conv"]["__call__"][0]
    assert (inside.dtype, narrow.dtype) == (jnp.bfloat16, jnp.float32)
    # Eight bits of mantissa through thirteen layers; the masks are within a few hundredths.
    error = float(jnp.abs(narrow - exact).max() / exact.max())
    assert 1e-6 < error < 0.1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_exports_for_accelerators_hold_only_native_convolutions(platform, inlined):
    network, variables, magnitude = UNet(DEEP), variables_of(DEEP), magnitude_of(DEEP, 1, frames=64)

    def loss(params, magnitude):
        estimates, _ = network.apply(
            {**variables, "params": params},
            magnitude,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return jnp.mean(jnp.abs(estimates))

    forward = jax.jit(lambda params, magnitude: network.apply({**variables, "params": params}, magnitude, train=False))
    step = jax.jit(
        lambda params, magnitude: jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params, magnitude))
    )

    def convolutions(function, platform):
        text = inlined(export.export(function, platforms=[platform])(variables["params"], magnitude).mlir_module())
        operations = collections.Counter(re.findall(r"stablehlo\.(\w+)", text))
        dilated = len(re.findall(r"stablehlo\.convolution[^\n]*lhs_dilate = \[2, 2\]", text))
        return operations["convolution"], dilated, operations["dot_general"] + operations["while"]

    # Per source: six strided, six transposed (the dilated ones), one mask; nothing like a matrix product or a loop.
    assert convolutions(forward, platform) == (2 * 13, 2 * 6, 0)
    # Each has two derivatives. Transposed are those by the input of all strided convolutions but the first, whose input
    # needs none and is dropped, beside those of the forward pass.
    assert convolutions(step, platform) == (2 * (3 * 13 - 1), 2 * (6 + 5), 0)
    # For a CPU the same programs hold the other forms, so the counts above can tell.
    assert convolutions(forward, "cpu")[1] == 0
    assert convolutions(step, "cpu")[2] > 0
