"""The Wave-U-Nets against their PyTorch twins: every layer, whole networks, whole tracks, gradients.

The twin of the redesign computes what the official code (86c113d) does, bit for bit, and has its names: the list in
wave_unet_torch_keys.txt was taken from it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.twins import GRADIENTS_IN_FLOAT64, OUTPUTS, l2_error, largest_error

from jaxsep.compare.reference import wave_unet as original_reference
from jaxsep.compare.reference import wave_unet_resampled as resampled_reference
from jaxsep.compare.reference.unet import layer_outputs, load_variables, to_state_dict
from jaxsep.models import wave_unet
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_unet import WaveUNet, WaveUNetConfig
from jaxsep.models.wave_unet_resampled import ResampledWaveUNet, ResampledWaveUNetConfig, low_pass
from jaxsep.separation.separator import Model, Separator
from jaxsep.weights.rules import SPECS

# As deep as it takes for every kind of block, and as narrow as compiles in a moment.
SMALL = {"levels": 3, "filters": 4}
SMALL_RESAMPLED = ResampledWaveUNetConfig(n_sources=2, filters=(8, 16, 24))
STEMS = ("first", "second")


def random_variables(network, seed=0):
    """Weights as training might leave them: He normal kernels, no scale or filter left at its start."""
    rng = np.random.default_rng(seed)
    mixture = jnp.zeros((network.config.lengths(1).input, network.config.channels))
    shapes = jax.eval_shape(lambda key: network.init(key, mixture, train=False), jax.random.key(0))

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            # Estimates that are not bounded stay below the limits, at which clipping would hide what differs.
            gain = 0.25 if path[-2].key == "output" else 1.0
            return (gain * rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:2])), leaf.shape)).astype(np.float32)
        if name == "filter":
            return (low_pass(network.config.stride) * rng.uniform(0.9, 1.1, leaf.shape)).astype(np.float32)
        spread = {"bias": (-0.1, 0.1), "scale": (0.7, 1.3), "weight": (-2, 2)}[name]
        return rng.uniform(*spread, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_mixture(config, *, batch=2, asked=60, seed=1):
    shape = (batch, config.lengths(asked).input, config.channels)
    return 0.5 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def to_torch(channels_last):
    return torch.from_numpy(np.array(channels_last)).movedim(-1, -2).contiguous()


def from_torch(channels_first):
    return channels_first.detach().movedim(-1, -2).numpy()


def network_and_twin(config):
    if isinstance(config, WaveUNetConfig):
        return WaveUNet(config), original_reference.WaveUNet(config)
    return ResampledWaveUNet(config), resampled_reference.ResampledWaveUNet(config, STEMS)


def load(twin, variables):
    if isinstance(twin, original_reference.WaveUNet):
        load_variables(twin, variables)
    else:
        resampled_reference.load_variables(twin, variables)
    return twin


PRESETS = {
    name: WaveUNetConfig.parse({**config.model_dump(), **SMALL, "filters": 6 if name == "m7" else 4}, where="the test")
    for name, config in wave_unet.PRESETS.items()
}
OTHERS = {
    "learned-without-context": WaveUNetConfig(n_sources=2, upsampling="learned", context=False, **SMALL),
    "linear-output-of-three": WaveUNetConfig(n_sources=3, output_activation="linear", output="direct", **SMALL),
    "other-kernels": WaveUNetConfig(n_sources=2, kernel_size=5, merge_kernel_size=1, **SMALL),
    "resampled": SMALL_RESAMPLED,
    "resampled-together": SMALL_RESAMPLED.model_copy(update={"separate": False}),
    "resampled-by-three": SMALL_RESAMPLED.model_copy(update={"stride": 3, "channels": 1}),
}


@pytest.mark.parametrize("name", [*PRESETS, *OTHERS])
def test_estimates_match_torch(name):
    config = {**PRESETS, **OTHERS}[name]
    network, twin = network_and_twin(config)
    variables, mixture = random_variables(network), random_mixture(config)
    with torch.inference_mode():
        expected = from_torch(load(twin, variables).eval()(to_torch(mixture)))
    ours = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, jnp.asarray(mixture))
    assert largest_error(ours, expected) < OUTPUTS
    # Neither silence nor clipped throughout; and no two sources alike.
    assert 0.05 < expected.std() and np.percentile(np.abs(expected), 50) < 0.95
    assert (
        np.abs(np.corrcoef(expected.swapaxes(0, 1).reshape(config.n_sources, -1)) - np.eye(config.n_sources)).max()
        < 0.98
    )


def test_every_layer_of_the_original_matches_torch():
    """Blocks on the way down give the middle of what the twin computes, and every second sample of it."""
    config = PRESETS["m5"]
    network, twin = network_and_twin(config)
    variables, mixture = random_variables(network), random_mixture(config)
    found = layer_outputs(load(twin, variables).eval(), to_torch(mixture))
    _, state = jax.jit(
        lambda v, x: network.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    )(variables, jnp.asarray(mixture))
    ours = state["intermediates"]
    for i in range(config.levels):
        whole = from_torch(torch.nn.functional.leaky_relu(found[f"down_{i}/conv"], 0.2))
        skip, halved = ours[f"down_{i}"]["__call__"][0]
        start = (whole.shape[1] - skip.shape[1]) // 2
        assert largest_error(skip, whole[:, start : start + skip.shape[1]]) < OUTPUTS
        assert largest_error(halved, whole[:, ::2]) < OUTPUTS
        assert largest_error(ours[f"upsampling_{i}"]["__call__"][0], from_torch(found[f"upsampling_{i}"])) < OUTPUTS
    for name in ("bottom", "up_0", "up_1", "up_2", "output_0"):
        # The twin's activation works in place of nothing: these are the convolutions' own outputs.
        assert largest_error(ours[name]["__call__"][0], from_torch(found[name])) < OUTPUTS


def test_every_layer_of_the_redesign_matches_torch():
    config = SMALL_RESAMPLED.model_copy(update={"separate": False})
    network, twin = network_and_twin(config)
    variables, mixture = random_variables(network), random_mixture(config)
    blocks = {
        "down_0_before_skip": "downsampling_blocks.0.pre_shortcut_convs.0",
        "down_1_after_skip": "downsampling_blocks.1.post_shortcut_convs.0",
        "downsampling_0": "downsampling_blocks.0.downconv",
        "downsampling_1": "downsampling_blocks.1.downconv",
        "bottom": "bottlenecks.0",
        "upsampling_0": "upsampling_blocks.0.upconv",
        "upsampling_1": "upsampling_blocks.1.upconv",
        "up_0_before_skip": "upsampling_blocks.0.pre_shortcut_convs.0",
        "up_1_after_skip": "upsampling_blocks.1.post_shortcut_convs.0",
        "output": "output_conv",
    }
    expected = {}
    load(twin, variables).eval()
    for ours, theirs in blocks.items():
        twin.waveunets["ALL"].get_submodule(theirs).register_forward_hook(
            lambda module, inputs, output, ours=ours: expected.update({ours: from_torch(output)})
        )
    with torch.inference_mode():
        twin(to_torch(mixture))
    _, state = jax.jit(
        lambda v, x: network.apply(v, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    )(variables, jnp.asarray(mixture))
    assert expected.keys() == blocks.keys()
    for name, layer in expected.items():
        assert largest_error(state["intermediates"]["sources"][name]["__call__"][0], layer) < OUTPUTS, name


@pytest.mark.parametrize("name", ["m1", "m4", "m5", "m6", "resampled"])
def test_losses_and_gradients_of_a_training_step_match_torch(name):
    """In float64, for the kinks of their activations."""
    config = {**PRESETS, **OTHERS}[name]
    network, twin = network_and_twin(config)
    as_float64 = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)  # noqa: E731
    variables, mixture = as_float64(random_variables(network)), as_float64(random_mixture(config))
    weights = np.random.default_rng(3).standard_normal(
        (len(mixture), config.n_sources, config.output_length(mixture.shape[1]), config.channels)
    )
    with jax.enable_x64(True):
        step = jax.jit(
            jax.value_and_grad(
                lambda params, x: jnp.mean(weights * network.apply(params, x, train=True)), argnums=(0, 1)
            )
        )
        value, (gradients, by_mixture) = jax.tree.map(np.asarray, step(variables, jnp.asarray(mixture)))
    load(twin.double(), variables).train()
    heard = to_torch(mixture).requires_grad_()
    loss = (to_torch(weights) * twin(heard)).mean()
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=GRADIENTS_IN_FLOAT64)
    assert l2_error(by_mixture, from_torch(heard.grad)) < GRADIENTS_IN_FLOAT64
    if isinstance(config, WaveUNetConfig):
        ours = to_state_dict(gradients)
    else:
        ours = resampled_reference.to_state_dict(twin, gradients)
        # Filters are not learned: torch has no gradients for them, and ours are zero.
        fixed = [leaf for leaf in ours if leaf.endswith("conv.filter")]
        assert len(fixed) == 8 and not any(ours.pop(leaf).any() for leaf in fixed)
    expected = {leaf: parameter.grad for leaf, parameter in twin.named_parameters() if parameter.requires_grad}
    assert ours.keys() == expected.keys()
    for leaf, gradient in expected.items():
        if isinstance(config, ResampledWaveUNetConfig) and leaf.endswith("filter.bias"):
            # A norm of eight channels takes most of a bias away: what is left is a difference of larger numbers.
            assert (ours[leaf] - gradient).abs().max() < GRADIENTS_IN_FLOAT64
            continue
        assert l2_error(ours[leaf], gradient) < GRADIENTS_IN_FLOAT64, leaf


def small_spec(form, config, asked):
    spec = SPECS[form]
    chunking = whole_outputs(*config.lengths(asked), last=spec.procedure.cutting.last)
    stems = STEMS if config.n_sources == 2 else spec.stems
    changes = {"config": config, "procedure": {"cutting": chunking}, "stems": stems, "channels": config.channels}
    return ModelSpec.parse({**spec.model_dump(), **changes}, where="the test")


@pytest.mark.parametrize(
    ("form", "config"),
    [("wave-unet-m2", PRESETS["m2"]), ("wave-unet-m4", PRESETS["m4"]), ("wave-unet-torch", SMALL_RESAMPLED)],
)
def test_whole_tracks_match_the_published_loops_on_torch(form, config):
    """Tracks shorter than an output, than an input, of whole outputs, and of some more."""
    spec = small_spec(form, config, 200)
    network, twin = network_and_twin(config)
    variables = random_variables(network)
    load(twin, variables).eval()
    separator = Separator(Model(network, variables, spec, ""))
    chunk, hop = spec.procedure.cutting.chunk_length, spec.procedure.cutting.chunk_hop
    reference = original_reference if spec.family == "wave_unet" else resampled_reference
    for length in (hop // 2, hop, chunk - hop // 2, chunk + 3 * hop, 5 * hop, 5 * hop + 17, chunk + hop - 1):
        mixture = random_mixture(config, asked=length)[0, :length]
        expected = reference.separate_as_published(twin, mixture, chunk, hop)
        stems = separator.separate(mixture, spec.sample_rate).stems
        assert largest_error(np.stack([stems[stem] for stem in spec.stems]), expected) < OUTPUTS, length


def test_the_twin_of_the_redesign_has_the_official_names_and_shapes():
    """Taken once from model/waveunet.py of f90/Wave-U-Net-Pytorch with the arguments of its published model."""
    listed = Path(__file__).with_name("wave_unet_torch_keys.txt").read_text().splitlines()
    with torch.device("meta"):
        spec = SPECS["wave-unet-torch"]
        twin = resampled_reference.ResampledWaveUNet(spec.config, spec.stems)
    found = [" ".join([name, *map(str, tensor.shape)]) for name, tensor in twin.state_dict().items()]
    assert found == listed
    assert len(listed) == 384


def test_the_published_filter_is_the_official_one():
    """build_sinc_filter(15, 0.125) of model/resample.py, which is symmetric, to float32 rounding."""
    official = [-0.0026118034, -0.0084258113, 0, 0.045597397, 0.1284516, 0.2127061, 0.2485649]
    np.testing.assert_allclose(low_pass(4)[1:8], official, atol=1e-7)
    np.testing.assert_array_equal(low_pass(4), low_pass(4)[::-1])
