"""Model.estimate: jit-able and differentiable as it is, and equal to the functions that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise
from weights.small_models import small_spec, small_variables

from jaxsep.errors import SeparationError
from jaxsep.separation.estimate import estimate_sources
from jaxsep.separation.separator import Model, Separator

# The same float32 arithmetic in another order, on samples below 1.
TOLERANCE = 2e-6


@pytest.fixture
def model():
    spec = small_spec()
    variables = small_variables(spec)
    # Of random numbers, what stands for a variance must not be negative.
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return Model(spec.network(), variables, spec, "0" * 64)


def test_a_jitted_estimate_is_that_of_estimate_sources_and_of_a_separator(model):
    mixture = noise(3000)
    found = jax.jit(model.estimate)(model.variables, mixture)
    plain = estimate_sources(model.variables, jnp.asarray(mixture), model=model.module, spec=model.spec)
    np.testing.assert_allclose(found, plain, atol=TOLERANCE)
    stems = Separator(model).separate(mixture, model.spec.sample_rate).stems
    assert list(stems) == list(model.spec.stems)
    np.testing.assert_allclose(found, np.stack(list(stems.values())), atol=TOLERANCE)
    # A comparison with silence would hold for anything.
    assert np.abs(found).max() > 0.1


def test_two_calls_of_the_same_shape_trace_once(model):
    """By the count of a function that runs whenever JAX traces."""
    traced = []

    def counted(variables, mixture):
        traced.append(mixture.shape)
        return model.estimate(variables, mixture)

    estimate = jax.jit(counted)
    first, second = (estimate(model.variables, noise(1000, seed=seed)) for seed in (0, 1))
    assert len(traced) == 1
    assert not np.array_equal(first, second)
    # The bound method itself is a key that JAX finds again, although its model holds arrays.
    bound = jax.jit(model.estimate)
    for seed in (0, 1):
        bound(model.variables, noise(1000, seed=seed))
    assert bound._cache_size() == 1


def test_other_variables_of_the_same_shapes_go_through_the_same_function(model):
    estimate = jax.jit(model.estimate)
    mixture = noise(1000)
    changed = {**model.variables, "params": jax.tree.map(lambda leaf: 0.5 * leaf, model.variables["params"])}
    expected = estimate_sources(changed, jnp.asarray(mixture), model=model.module, spec=model.spec)
    np.testing.assert_allclose(estimate(changed, mixture), expected, atol=TOLERANCE)
    assert not np.allclose(estimate(model.variables, mixture), expected, atol=1e-3)


def test_the_gradient_by_the_mixture_is_the_one_on_paper(gains_model):
    """Of sources that are the mixture m times 1 and -0.5, the energy is 1.25 m^2 and its derivative 2.5 m."""
    model = gains_model()
    mixture = jnp.asarray(noise(600))
    gradient = jax.jit(jax.grad(lambda heard: jnp.square(model.estimate(model.variables, heard)).sum()))(mixture)
    np.testing.assert_allclose(gradient, 2.5 * mixture, atol=TOLERANCE)


def test_the_gradient_by_the_variables_is_finite_and_reaches_every_kernel(model):
    mixture = jnp.asarray(noise(600))
    gradients = jax.grad(
        lambda params: jnp.square(model.estimate({**model.variables, "params": params}, mixture)).sum()
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(model.variables["params"])):
        assert np.isfinite(leaf).all(), path
        if path[-1].key == "kernel":
            assert np.abs(leaf).max() > 0, path


def test_a_model_with_time_shifts_takes_the_seed_that_a_separator_takes(gains_model):
    """Gains commute with any delay: each source is the mixture times its gain, whichever the shifts are."""
    model = gains_model(shifts=2)
    mixture = noise(3000)
    found = jax.jit(model.estimate, static_argnames="seed")(model.variables, mixture, seed=3)
    np.testing.assert_allclose(found, np.stack([mixture, -0.5 * mixture]), atol=TOLERANCE)


def test_mixtures_of_other_channels_are_refused_in_a_sentence(model):
    with pytest.raises(SeparationError, match="1 channels but 'small' takes 2"):
        jax.jit(model.estimate)(model.variables, noise(1000, channels=1))
