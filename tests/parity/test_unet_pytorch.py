"""The U-Net against its PyTorch twin with the same random weights: every layer, every gradient, a training step's statistics.

PyTorch's own layers are the oracle of each operation. That both build the network that Spleeter published is for the tests with
its own weights and code.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsep.compare.reference import unet as reference
from jaxsep.models.convolutions import down, mask_convolution, up
from jaxsep.models.unet import PRESETS, SPLEETER_2STEMS, UNet

# Sums of up to 25 * 512 products in float32, in another order, through up to thirteen layers: measured 5e-6 at worst.
OUTPUTS = 1e-5
# Relative L2 norm of each leaf. The backward pass is another thirteen layers of the same, and where rounding puts a value on the
# other side of an activation's kink, one whole term of the sum changes.
GRADIENTS = 1e-4


def reduced(name, **changes):
    """A published form on 128 bins: the same layers and weights, a sixty-fourth of the work on 64 frames."""
    return PRESETS[name].model_copy(update={"bins": 128, **changes})


def largest_error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def l2_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def random_variables(config, seed=0):
    """Weights as training might leave them: He normal kernels by true fan-in, and no statistic or scale left at its start."""
    rng = np.random.default_rng(seed)
    shape = (1, config.stride, config.bins, config.channels)
    shapes = jax.eval_shape(lambda: UNet(config).init(jax.random.key(0), jnp.zeros(shape), train=False))

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            transposed = path[-3].key.startswith("decoder")
            inputs = leaf.shape[3] / 4 if transposed else leaf.shape[2]
            scale = np.sqrt(2 / (leaf.shape[0] * leaf.shape[1] * inputs))
            return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)
        spread = {"bias": (-0.1, 0.1), "mean": (-0.3, 0.3), "scale": (0.7, 1.3), "var": (0.5, 2.0)}[name]
        return jnp.asarray(rng.uniform(*spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_magnitude(config, batch, frames, seed=1):
    """As magnitudes of music are distributed: non-negative, many small, a few large."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.standard_normal((batch, frames, config.bins, config.channels), np.float32)) ** 3


def to_torch(channels_last):
    return torch.from_numpy(np.moveaxis(np.array(channels_last), -1, -3).copy())


def from_torch(channels_first):
    return np.moveaxis(channels_first.detach().numpy(), -3, -1)


def twin_of(config, variables):
    network = reference.UNet(config)
    reference.load_variables(network, variables)
    return network


@pytest.mark.parametrize("form", ["native", "auto"])
def test_each_convolution_matches_torchs_layer(form):
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    kernel, large, small, mono, taps = (
        draw(5, 5, 32, 64), draw(2, 24, 16, 32), draw(2, 12, 8, 64), draw(2, 24, 16, 1), draw(4, 4, 1, 2)
    )  # fmt: skip
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    padded = torch.nn.functional.pad(to_torch(large), (1, 2, 1, 2))
    strided = torch.nn.functional.conv2d(padded, weight, stride=2)
    assert largest_error(down(jnp.asarray(large), jnp.asarray(kernel), form), from_torch(strided)) < OUTPUTS
    # torch stores a transposed convolution's weight like that of the convolution it transposes: no flip, same permutation.
    transposed = torch.nn.functional.conv_transpose2d(to_torch(small), weight, stride=2)[..., 1:-2, 1:-2]
    assert largest_error(up(jnp.asarray(small), jnp.asarray(kernel), form), from_torch(transposed)) < OUTPUTS
    dilated = torch.nn.functional.conv2d(
        to_torch(mono), torch.from_numpy(taps.transpose(3, 2, 0, 1).copy()), padding=3, dilation=2
    )
    assert largest_error(mask_convolution(jnp.asarray(mono), jnp.asarray(taps), form), from_torch(dilated)) < OUTPUTS


@functools.partial(jax.jit, static_argnums=0)
def layers_of(network, variables, magnitude):
    return network.apply(variables, magnitude, train=False, capture_intermediates=True)


@pytest.mark.parametrize("name", ["2stems", "4stems", "5stems"])
def test_every_layer_of_every_published_form_matches_torch(name):
    config = reduced(name, n_sources=2)
    variables, magnitude = random_variables(config), random_magnitude(config, 2, 128)
    estimates, captured = layers_of(UNet(config), variables, jnp.asarray(magnitude))
    network = twin_of(config, variables).eval()
    theirs = reference.layer_outputs(network, to_torch(magnitude))
    compared = 0
    for source in ("source_0", "source_1"):
        ours = captured["intermediates"][source]
        for i in range(6):
            pairs = {
                f"encoder_{i}/conv": ours[f"encoder_{i}"]["conv"]["__call__"][0],
                f"decoder_{i}/conv": ours[f"decoder_{i}"]["conv"]["__call__"][0],
                f"decoder_{i}/norm": ours[f"decoder_{i}"]["norm"]["__call__"][0],
                f"decoder_{i}/dropout": ours[f"decoder_{i}"]["__call__"][0],
            }
            if i < 5:
                pairs[f"encoder_{i}/norm"] = ours[f"encoder_{i}"]["norm"]["__call__"][0]
                pairs[f"encoder_{i}/activation"] = ours[f"encoder_{i}"]["__call__"][0][1]
            for layer, output in pairs.items():
                oracle = theirs[f"{source}/{layer}"]
                oracle = oracle[..., : output.shape[1], : output.shape[2]]
                assert largest_error(output, from_torch(oracle)) < OUTPUTS, f"{source}/{layer}"
                compared += 1
        assert largest_error(ours["mask"]["__call__"][0], from_torch(theirs[f"{source}/mask"])) < OUTPUTS
    assert compared == 2 * (6 * 4 + 5 * 2)
    with torch.inference_mode():
        expected = from_torch(network(to_torch(magnitude)))
    assert largest_error(estimates, expected) < OUTPUTS
    # Masks that were all nothing or all one would hide what is before them.
    masks = expected / np.maximum(magnitude[:, None], 1e-12)
    assert 0.05 < masks.std()


@pytest.mark.parametrize("name", PRESETS)
def test_every_published_form_with_all_its_sources_matches_torch(name):
    config = PRESETS[name].model_copy(update={"bins": 192 if "16kHz" in name else 128})
    variables, magnitude = random_variables(config, seed=3), random_magnitude(config, 1, 64)
    estimates = jax.jit(lambda v, x: UNet(config).apply(v, x, train=False))(variables, jnp.asarray(magnitude))
    with torch.inference_mode():
        expected = from_torch(twin_of(config, variables).eval()(to_torch(magnitude)))
    assert largest_error(estimates, expected) < OUTPUTS


def test_the_published_size_matches_torch():
    """512 frames of 1024 bins, where the largest forms of the convolutions are chosen."""
    config = SPLEETER_2STEMS
    variables, magnitude = random_variables(config, seed=4), random_magnitude(config, 1, 512)
    estimates = jax.jit(lambda v, x: UNet(config).apply(v, x, train=False))(variables, jnp.asarray(magnitude))
    with torch.inference_mode():
        expected = from_torch(twin_of(config, variables).eval()(to_torch(magnitude)))
    assert largest_error(estimates, expected) < OUTPUTS


@pytest.mark.parametrize("batch_statistics", [False, True])
@pytest.mark.parametrize("name", ["2stems", "5stems"])
def test_gradients_and_statistics_of_a_training_step_match_torch(name, batch_statistics):
    config = reduced(name, n_sources=2, dropout=0.0, batch_statistics=batch_statistics)
    variables, magnitude = random_variables(config, seed=5), random_magnitude(config, 2, 128)
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((2, 2, 128, config.bins, 2)).astype(np.float32)

    # A loss without kinks of its own, so that only the network's are left.
    def loss(params, statistics, magnitude):
        estimates, updated = UNet(config).apply(
            {"params": params, "batch_stats": statistics}, magnitude, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(weights * estimates), updated

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True))
    (value, updated), (gradients, by_magnitude) = step(
        variables["params"], variables["batch_stats"], jnp.asarray(magnitude)
    )

    network = twin_of(config, variables).train()
    torch_magnitude = to_torch(magnitude).requires_grad_()
    torch_loss = (to_torch(weights) * network(torch_magnitude)).mean()
    torch_loss.backward()
    # A mean of 10^5 products of both signs.
    assert float(value) == pytest.approx(float(torch_loss), rel=1e-4)
    assert l2_error(by_magnitude, from_torch(torch_magnitude.grad)) < GRADIENTS
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    ours = reference.to_state_dict({"params": gradients})
    assert ours.keys() == expected.keys()
    # With batch statistics the encoder's biases stand in front of a norm that takes every mean away: their true gradient is
    # what reaches them past the norm, through the skips, and rounding is measured against the layer's kernel.
    for leaf, gradient in expected.items():
        assert l2_error(ours[leaf], gradient) < GRADIENTS, leaf

    statistics = reference.to_state_dict({"batch_stats": updated["batch_stats"]})
    state = network.state_dict()
    started = reference.to_state_dict({"batch_stats": variables["batch_stats"]})
    for leaf, ours_now in statistics.items():
        if leaf.endswith("num_batches_tracked"):
            continue
        theirs_now = state[leaf]
        if leaf.endswith("running_var") and batch_statistics:
            # torch averages the unbiased variance, TensorFlow and linen the biased one.
            block = leaf.split(".")[1]
            blocks = int(block[-1]) + 1 if block.startswith("encoder") else 5 - int(block[-1])
            count = 2 * (128 >> blocks) * (config.bins >> blocks)
            added = theirs_now - config.norm_momentum * started[leaf]
            theirs_now = theirs_now - added / count
        assert largest_error(ours_now, theirs_now) < OUTPUTS, leaf
        assert torch.equal(ours_now, started[leaf]) != batch_statistics
