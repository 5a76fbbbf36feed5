"""The U-Net against its twin in Keras on TensorFlow with the same random weights: estimates, gradients, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from parity.twins import GRADIENTS, OUTPUTS, l2_error, largest_error, random_magnitude, random_variables

from jaxsep.compare.reference import unet_keras as reference
from jaxsep.errors import ConfigError
from jaxsep.models.unet import PRESETS, UNet
from jaxsep.weights.tree import flatten


def reduced(name, **changes):
    """A published form with fewer bins and channels; comparisons with Spleeter itself are at the published widths."""
    narrow = {"bins": 128, "n_sources": 2, "filters": (8, 12, 16, 20, 24, 28)}
    return PRESETS[name].model_copy(update={**narrow, **changes})


@pytest.mark.parametrize("name", ["2stems", "4stems", "5stems"])
def test_every_published_form_matches_keras(name):
    config = reduced(name)
    variables, magnitude = random_variables(UNet(config)), random_magnitude(config, 2, 128)
    twin = reference.build_unet(config)
    reference.load_variables(twin, variables)
    estimates = jax.jit(lambda v, x: UNet(config).apply(v, x, train=False))(variables, jnp.asarray(magnitude))
    expected = twin(magnitude, training=False).numpy()
    assert largest_error(estimates, expected) < OUTPUTS
    # Masks that were all nothing or all one would hide what is before them.
    assert 0.05 < (expected / np.maximum(magnitude[:, None], 1e-12)).std()


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_gradients_and_statistics_of_a_training_step_match_tensorflow(batch_statistics):
    """The form without kinks, where float32 gradients are comparable; see `parity.twins`."""
    config = reduced("4stems", n_sources=1, dropout=0.0, batch_statistics=batch_statistics)
    network = UNet(config)
    variables, magnitude = random_variables(network, seed=5), random_magnitude(config, 2, 64)
    weights = np.random.default_rng(6).standard_normal((2, 1, 64, 128, 2)).astype(np.float32)
    twin = reference.build_unet(config)
    reference.load_variables(twin, variables)

    def loss(params):
        estimates, updated = network.apply(
            {**variables, "params": params}, jnp.asarray(magnitude), train=True, mutable=["batch_stats"]
        )
        return jnp.mean(weights * estimates), updated

    with jax.default_matmul_precision("highest"):
        (value, updated), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    theirs = {
        path: variable for path, variable in reference.variables_by_path(twin).items() if path.startswith("params/")
    }
    with tf.GradientTape() as tape:
        their_value = tf.reduce_mean(weights * twin(magnitude, training=True))
    expected = tape.gradient(their_value, [variable.value for variable in theirs.values()])
    assert float(value) == pytest.approx(float(their_value), rel=GRADIENTS)
    ours = flatten({"params": gradients})
    assert ours.keys() == theirs.keys()
    for path, gradient in zip(theirs, expected, strict=True):
        assert l2_error(ours[path], gradient.numpy()) < GRADIENTS, path
    after = flatten({"batch_stats": reference.to_variables(twin)["batch_stats"]})
    before = flatten({"batch_stats": variables["batch_stats"]})
    for path, statistic in flatten({"batch_stats": updated["batch_stats"]}).items():
        assert largest_error(statistic, after[path]) < OUTPUTS, path
        assert np.array_equal(before[path], after[path]) != batch_statistics, path


def test_weights_go_there_and_back_unchanged():
    config = reduced("2stems")
    variables = random_variables(UNet(config), seed=7)
    twin = reference.build_unet(config)
    reference.load_variables(twin, variables)
    ours, back = flatten(variables), flatten(reference.to_variables(twin))
    assert ours.keys() == back.keys()
    assert all(np.array_equal(ours[path], back[path]) for path in ours)


def test_weights_of_another_config_are_refused():
    twin = reference.build_unet(reduced("2stems"))
    with pytest.raises(ConfigError, match="not those of the twin's config"):
        reference.load_variables(twin, random_variables(UNet(reduced("2stems", filters=(8, 16)))))
