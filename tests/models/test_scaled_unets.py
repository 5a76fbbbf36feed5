"""Jansson's and the classic U-Net by themselves: parameters, scale of the input, modes, presets and errors.

Their values are compared in parity/test_jansson_and_classic_unet_pytorch.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import ConfigError
from jaxsep.models import FAMILIES
from jaxsep.models.classic_unet import ClassicUNet, ClassicUNetConfig
from jaxsep.models.jansson import JANSSON, JanssonConfig, JanssonUNet
from jaxsep.models.spec import ModelSpec
from jaxsep.weights.rules import SPECS

SMALL = {
    # Five blocks, for a decoder block without dropout.
    "jansson": JanssonConfig(n_sources=2, bins=32, filters=(4, 6, 8, 10, 12)),
    "classic_unet": ClassicUNetConfig(n_sources=2, bins=32, filters=(4, 6)),
}
FRAMES = 32


def network_of(family, **changes):
    return FAMILIES[family].module(SMALL[family].model_copy(update=changes))


def shapes_of(network):
    config = network.config
    magnitude = jnp.zeros((config.stride, config.bins, config.channels))
    return jax.eval_shape(lambda: network.init(jax.random.key(0), magnitude, train=False))


@functools.cache
def variables_of(network):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        spread = {"kernel": (-0.4, 0.4), "bias": (-0.1, 0.1), "mean": (-0.3, 0.3)}.get(path[-1].key, (0.7, 1.3))
        return jnp.asarray(rng.uniform(*spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(network))


@functools.partial(jax.jit, static_argnums=0)
def estimate(network, variables, magnitude):
    return network.apply(variables, magnitude, train=False)


def magnitude_of(network, *batch, seed=0):
    shape = (*batch, FRAMES, network.config.bins, network.config.channels)
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 30, shape), jnp.float32)


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def norm(block, features):
    names = {"params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var"}
    return {name.format(f"source_0/{block}/norm"): (features,) for name in names}


def test_janssons_variables_are_those_of_the_paper_without_a_bias_before_a_norm():
    encoder = [(1, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    decoder = [(256, 512), (128, 512), (64, 256), (32, 128), (16, 64)]  # output channels first
    expected = {"params/source_0/mask/kernel": (5, 5, 1, 32), "params/source_0/mask/bias": (1,)}
    for i, pair in enumerate(encoder):
        expected |= {f"params/source_0/encoder_{i}/conv/kernel": (5, 5, *pair), **norm(f"encoder_{i}", pair[1])}
    for i, pair in enumerate(decoder):
        expected |= {f"params/source_0/decoder_{i}/conv/kernel": (5, 5, *pair), **norm(f"decoder_{i}", pair[0])}
    shapes = shapes_of(JanssonUNet(JANSSON.model_copy(update={"n_sources": 1})))
    assert {path: leaf.shape for path, leaf in paths(shapes).items()} == expected


def test_the_classic_unets_variables_are_two_convolutions_a_block_without_a_bias_before_a_norm():
    expected = {"params/source_0/mask/kernel": (1, 1, 32, 2), "params/source_0/mask/bias": (2,)}
    widths = [2, 32, 64, 128, 256, 512]
    blocks = [(f"encoder_{i}", widths[i], widths[i + 1]) for i in range(5)]
    blocks += [(f"decoder_{i}", 2 * features, features) for i, features in enumerate((256, 128, 64, 32))]
    for block, inputs, features in blocks:
        for name, channels in (("first", inputs), ("second", features)):
            expected[f"params/source_0/{block}/{name}/conv/kernel"] = (3, 3, channels, features)
            expected |= norm(f"{block}/{name}", features)
    for i, features in enumerate((256, 128, 64, 32)):
        expected[f"params/source_0/up_{i}/kernel"] = (2, 2, features, 2 * features)
        expected[f"params/source_0/up_{i}/bias"] = (features,)
    shapes = shapes_of(ClassicUNet(ClassicUNetConfig(n_sources=1)))
    assert {path: leaf.shape for path, leaf in paths(shapes).items()} == expected


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("batch", [(), (2, 1)])
def test_every_source_gets_the_mixtures_shape_and_no_more_than_the_mixture(family, batch):
    network = network_of(family)
    magnitude = magnitude_of(network, *batch)
    estimates = estimate(network, variables_of(network), magnitude)
    assert estimates.shape == (*batch, 2, *magnitude.shape[len(batch) :])
    assert jnp.all(estimates >= 0)
    assert jnp.all(estimates <= jnp.expand_dims(magnitude, -4))


@pytest.mark.parametrize("family", SMALL)
def test_plain_input_makes_masks_that_do_not_depend_on_the_level_and_log_input_does_not(family):
    # A power of two scales float32 numbers without rounding.
    factor = 2.0**-7
    for scale, same in (("plain", True), ("log", False)):
        network = network_of(family, input_scale=scale)
        variables, magnitude = variables_of(network), magnitude_of(network, 1)
        loud = estimate(network, variables, magnitude)
        quiet = estimate(network, variables, factor * magnitude)
        assert np.array_equal(quiet, factor * loud) == same


@pytest.mark.parametrize("family", SMALL)
def test_plain_input_is_scaled_segment_by_segment(family):
    network = network_of(family, input_scale="plain")
    variables, magnitude = variables_of(network), magnitude_of(network, 2)
    together = estimate(network, variables, magnitude * jnp.asarray([1.0, 100.0]).reshape(2, 1, 1, 1))
    alone = estimate(network, variables, magnitude)
    # Scaling by 100 and back rounds: float32 through ten layers.
    np.testing.assert_allclose(together[1], 100 * alone[1], atol=1e-3 * float(alone.max()))


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("scale", ["plain", "log"])
def test_silence_stays_silent_and_has_finite_gradients(family, scale):
    network = network_of(family, input_scale=scale)
    variables = variables_of(network)
    magnitude = jnp.zeros((1, *magnitude_of(network).shape))

    @jax.jit
    def both(magnitude):
        return jax.value_and_grad(lambda x: network.apply(variables, x, train=False).sum())(magnitude)

    value, gradient = both(magnitude)
    assert value == 0
    assert jnp.all(jnp.isfinite(gradient))


@functools.partial(jax.jit, static_argnums=0)
def train(network, variables, magnitude, key):
    return network.apply(
        variables,
        magnitude,
        train=True,
        rngs={"dropout": jax.random.key(key)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )


def test_janssons_dropout_acts_after_the_first_three_decoder_blocks_and_follows_its_key():
    network = network_of("jansson", n_sources=1)
    variables, magnitude = variables_of(network), magnitude_of(network, 2)
    (first, state), (again, _), (other, _) = (train(network, variables, magnitude, key) for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    layers = state["intermediates"]["source_0"]
    dropped = [layer["__call__"][0] for name, layer in sorted(layers.items()) if name.startswith("Dropout")]
    assert len(dropped) == 3
    for i, after in enumerate(dropped):
        before = layers[f"decoder_{i}"]["__call__"][0]
        kept = after != 0
        # The norm before is computed anew, fused with the dropout or not: some float32 roundings of values near 1.
        np.testing.assert_allclose(after, jnp.where(kept, 2 * before, 0), rtol=1e-6, atol=1e-6)
        # Of what a ReLU leaves, half is dropped: the smallest map has some 100 values, whose share varies by 5 %.
        assert 0.3 < float(kept.sum() / (before != 0).sum()) < 0.7


@pytest.mark.parametrize("family", SMALL)
def test_gradients_are_those_of_float64(family):
    """However XLA compiles: that it computes a maximum anew must not lose a gradient."""
    network = network_of(family, **({"dropout": 0.0} if family == "jansson" else {}))

    def distance(params, variables, magnitude):
        estimates, _ = network.apply({**variables, "params": params}, magnitude, train=True, mutable=["batch_stats"])
        return jnp.abs(estimates - 1).mean()

    def gradients(dtype):
        variables, magnitude = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), dtype), (variables_of(network), magnitude_of(network, 4))
        )
        return paths(jax.device_get(jax.jit(jax.grad(distance))(variables["params"], variables, magnitude)))

    found = gradients(np.float32)
    with jax.enable_x64(True):
        expected = gradients(np.float64)
    for path, exact in expected.items():
        assert exact.dtype == np.float64
        error = np.abs(found[path] - exact).max() / np.abs(exact).max()
        # Float32 through ten layers (3e-5 is seen), and of ten thousand rectifiers and maxima one may be decided
        # otherwise. A lost gradient is 0.2 and more.
        assert error < 1e-3, f"{path}: {error:.1e}"


@pytest.mark.parametrize("family", SMALL)
def test_bfloat16_computes_near_float32_and_keeps_float32_at_its_edges(family):
    network = network_of(family)
    variables, magnitude = variables_of(network), magnitude_of(network, 1)
    exact = estimate(network, variables, magnitude)
    narrow = estimate(network.clone(dtype=jnp.bfloat16), variables, magnitude)
    assert narrow.dtype == jnp.float32
    # Eight bits of mantissa through ten layers; the masks are within a few hundredths.
    error = float(jnp.abs(narrow - exact).max() / exact.max())
    assert 1e-6 < error < 0.1


@pytest.mark.parametrize("family", SMALL)
def test_magnitudes_that_do_not_fit_are_refused(family):
    network = network_of(family)
    variables, stride = variables_of(network), network.config.stride
    for shape, message in [
        ((FRAMES + 1, 32, network.config.channels), f"{FRAMES + 1} frames.*multiple of {stride}"),
        ((0, 32, network.config.channels), "0 frames"),
        ((FRAMES, 64, network.config.channels), "64 bins"),
        ((FRAMES, 32, 3), "3 channels"),
    ]:
        with pytest.raises(ConfigError, match=message):
            network.apply(variables, jnp.zeros(shape), train=False)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("jansson", {"bins": 500}, "bins.*multiple of 64"),
        ("classic_unet", {"bins": 1000}, "bins.*multiple of 16"),
        ("jansson", {"input_scale": "decibels"}, "input_scale"),
        ("classic_unet", {"dropout": 0.5}, "unknown key 'dropout'"),
    ],
)
def test_impossible_configs_are_refused(family, change, message):
    with pytest.raises(ConfigError, match=message):
        FAMILIES[family].config.parse({"n_sources": 2, **change}, where="a test's config")


def test_a_single_network_cannot_have_ratio_masks():
    data = {**SPECS["jansson"].model_dump(), "stems": ["vocals"]}
    data["config"]["n_sources"] = 1
    data["domain"]["masks"] = {"kind": "ratio"}
    with pytest.raises(ConfigError, match="always one; use masks of kind 'direct'"):
        ModelSpec.parse(data, where="the test")
    assert ModelSpec.parse(
        {**data, "domain": {**data["domain"], "masks": {"kind": "direct"}}}, where="the test"
    ).stems == ("vocals",)


def test_published_forms_are_these():
    forms = {name: spec for name, spec in SPECS.items() if spec.family in ("jansson", "classic_unet")}
    facts = {
        name: (
            spec.sample_rate,
            spec.channels,
            spec.domain.bins,
            spec.domain.stft.n_fft,
            spec.domain.stft.hop_length,
            spec.bandwidth_hz,
        )
        for name, spec in forms.items()
    }
    assert facts == {
        "jansson": (8192, 1, 512, 1024, 768, 4096.0),
        "jansson-log": (8192, 1, 512, 1024, 768, 4096.0),
        "classic-unet": (44100, 2, 1024, 2048, 512, 22050.0),
    }
    assert {spec.domain.masks.kind for spec in forms.values()} == {"direct"}
    assert {name: spec.config.input_scale for name, spec in forms.items()} == {
        "jansson": "plain",
        "jansson-log": "log",
        "classic-unet": "log",
    }
    assert SPECS["jansson"].procedure.cutting.chunk_hop == 128 * 768
