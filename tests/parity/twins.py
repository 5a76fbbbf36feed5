"""What the comparisons of networks with their PyTorch twins share: weights, magnitudes, errors, a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsep.compare.reference import unet as reference

# Sums of up to 25 * 512 products in float32, in another order, through up to thirteen layers: measured 5e-6 at worst.
OUTPUTS = 1e-5
# Relative L2 norm of each leaf: float32 rounding through twice thirteen layers, measured 5e-6 where activations are
# smooth, and 6e-5 of a bias in front of a norm, whose terms nearly cancel (PyTorch's own rounding: 5e-5). Across the
# kink of a ReLU, rounding can turn one whole term of a sum on or off: 1e-3 was seen.
GRADIENTS = 1e-4
# The same in float64, where a value within rounding of a kink is one in 10^9: rounding alone.
GRADIENTS_IN_FLOAT64 = 1e-9


def largest_error(ours, theirs):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def l2_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def random_variables(network, seed=0):
    """Weights as training might leave them: He normal kernels by true fan-in, no scale left at its start."""
    rng = np.random.default_rng(seed)
    config = network.config
    shape = (1, config.stride, config.bins, config.channels)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(shape), train=False))

    def draw(path, leaf):
        layer, name = "/".join(key.key for key in path[:-1]), path[-1].key
        if name == "kernel":
            # Of a strided transposed convolution, a quarter of the taps meets an input.
            transposed = layer.endswith(TRANSPOSED[type(network).__name__])
            inputs = leaf.shape[3] / 4 if transposed else leaf.shape[2]
            scale = np.sqrt(2 / (leaf.shape[0] * leaf.shape[1] * inputs))
            return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)
        spread = {"bias": (-0.1, 0.1), "mean": (-0.3, 0.3), "scale": (0.7, 1.3), "var": (0.5, 2.0)}[name]
        return jnp.asarray(rng.uniform(*spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


_DECODER = tuple(f"decoder_{i}/conv" for i in range(6))
TRANSPOSED = {"UNet": _DECODER, "JanssonUNet": (*_DECODER, "mask"), "ClassicUNet": tuple(f"up_{i}" for i in range(6))}


def random_magnitude(config, batch, frames, seed=1):
    """As magnitudes of music are distributed: non-negative, many small, a few large."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.standard_normal((batch, frames, config.bins, config.channels), np.float32)) ** 3


def to_torch(channels_last):
    return torch.from_numpy(np.moveaxis(np.array(channels_last), -1, -3).copy())


def from_torch(channels_first):
    return np.moveaxis(channels_first.detach().numpy(), -3, -1)


def assert_training_step_matches(network, twin, variables, magnitude, *, float64, tolerance):
    """Loss, gradients by every parameter and by the input, and running statistics of a step in training mode.

    Args:
        network: Ours, without dropout.
        twin: In torch, with any weights.
        variables: For both.
        magnitude: (batch, frame, freq, channel).
        float64: Whether ours computes in float64. Torch always does, so that what differs is our rounding alone.
        tolerance: On the loss, and the relative L2 norm of each gradient.
    """
    dtype = np.float64 if float64 else np.float32
    config = network.config
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), variables)
    magnitude = magnitude.astype(dtype)
    # A loss without kinks of its own, with a gradient of either sign everywhere.
    weights = np.random.default_rng(6).standard_normal((len(magnitude), config.n_sources, *magnitude.shape[1:]))
    weights = weights.astype(dtype)

    def loss(params, magnitude):
        estimates, updated = network.apply(
            {**variables, "params": params}, magnitude, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(weights * estimates), updated

    with jax.enable_x64(float64), jax.default_matmul_precision("highest"):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (value, updated), (gradients, by_magnitude) = jax.tree.map(
            np.asarray, step(jax.tree.map(jnp.asarray, variables["params"]), jnp.asarray(magnitude))
        )

    reference.load_variables(twin, variables)
    twin = twin.double().train()
    counts = values_seen_by_norms(twin)
    torch_magnitude = to_torch(magnitude).double().requires_grad_()
    torch_loss = (to_torch(weights).double() * twin(torch_magnitude)).mean()
    torch_loss.backward()
    assert value == pytest.approx(torch_loss.item(), rel=tolerance)
    assert l2_error(by_magnitude, from_torch(torch_magnitude.grad)) < tolerance
    expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
    ours = reference.to_state_dict({"params": gradients})
    assert ours.keys() == expected.keys()
    for leaf, gradient in expected.items():
        assert l2_error(ours[leaf], gradient) < tolerance, leaf

    started = reference.to_state_dict({"batch_stats": variables["batch_stats"]})
    ended = reference.to_state_dict({"batch_stats": updated["batch_stats"]})
    compared = 0
    for leaf, statistic in twin.state_dict().items():
        if not leaf.endswith(("running_mean", "running_var")):
            continue
        if leaf.endswith("running_var") and config.batch_statistics:
            # torch averages the unbiased variance, TensorFlow and linen the biased one.
            count = counts[leaf.removesuffix(".running_var")]
            statistic = statistic - (statistic - config.norm_momentum * started[leaf]) / count
        assert largest_error(ended[leaf], statistic) < OUTPUTS, leaf
        assert torch.equal(ended[leaf], started[leaf]) != config.batch_statistics
        compared += 1
    assert compared == len(started) * 2 // 3 > 0


def values_seen_by_norms(twin):
    """Counts, once the twin is called, the values of each channel that a norm's statistics are over, by its name."""
    counts = {}

    def count(name):
        return lambda module, inputs: counts.update({name: inputs[0].numel() // inputs[0].shape[1]})

    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(count(name))
    return counts
