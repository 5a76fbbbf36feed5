"""The step with all kinds of Demucs: devices and layers that are computed again change nothing; dropout acts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.demucs_runs import CONFIGS, L1, batch_of, spec_of, step_and_state, variables_of
from training.step_runs import SPEC, assert_close

from jaxsep.errors import ConfigError
from jaxsep.training.objective import Batch, Evaluated, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step
from jaxsep.weights.tree import flatten
from train.parallel import replicate_step, shard


@pytest.mark.parametrize("family", CONFIGS)
def test_four_devices_train_demucs_as_one_does(family):
    """Five Adam steps with the same global batch."""
    spec = spec_of(family)
    variables = variables_of(spec)
    states = []
    for devices in (None, 4):
        step, state = step_and_state(spec, variables)
        step = replicate_step(step) if devices else jax.jit(partial(step, axis_name=None))
        losses = []
        for index in range(5):
            batch = batch_of(spec, index)
            state, metrics = step(state, shard(batch, devices) if devices else batch, jax.random.key(0))
            losses.append(float(metrics.loss))
        states.append((jax.device_get(state), losses))
    (alone, losses), (together, losses_together) = states
    np.testing.assert_allclose(losses_together, losses, rtol=1e-5)
    assert not np.isclose(losses[0], losses[-1], rtol=1e-4)
    # As for the U-Net: means of four means in float32. Where a gradient is rounding alone, as of biases in front of a
    # norm, Adam makes of it steps of either sign: 1e-4 five times, of numbers of a third.
    assert_close(together.params, alone.params, 5e-3)
    moved = [
        np.concatenate(
            [(np.asarray(leaf) - before).ravel() for leaf, before in zip(*map(jax.tree.leaves, pair), strict=True)]
        )
        for pair in ((state.params, variables["params"]) for state in (alone, together))
    ]
    assert np.linalg.norm(moved[0] - moved[1]) < 0.1 * np.linalg.norm(moved[0])


def gradients_of(spec, variables, **options):
    def loss(params, batch, key):
        return objective(params, {}, batch, key, model=spec.network(), spec=spec, loss=L1, train=True, **options)[0]

    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda key: compiled(variables["params"], batch_of(spec, 0, examples=2), jax.random.key(key))


@pytest.mark.parametrize("family", ["demucs_v2", "htdemucs"])
def test_layers_that_are_computed_again_leave_loss_and_gradients_as_they_are(family):
    spec = spec_of(family)
    variables = variables_of(spec)
    (loss, kept), (loss_again, again) = (gradients_of(spec, variables, rematerialise=each)(0) for each in (False, True))
    assert loss_again == pytest.approx(float(loss), rel=1e-6)
    largest = max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(kept))
    for path, leaf in flatten(again).items():
        # The same operations, which XLA fuses otherwise; gradients of zero are rounding in both.
        expected = np.asarray(flatten(kept)[path])
        assert np.linalg.norm(leaf - expected) < 1e-4 * np.linalg.norm(expected) + 1e-6 * largest, path


@pytest.mark.parametrize("family", CONFIGS)
def test_every_layer_that_a_family_states_is_computed_again_once(family):
    """Of the backward pass as JAX writes it down, before XLA: every layer that the family states is in it."""
    spec = spec_of(family)
    variables = variables_of(spec)
    batch = jax.tree.map(jnp.asarray, batch_of(spec, 0, examples=1))
    traced = jax.make_jaxpr(
        jax.grad(
            lambda params: objective(
                params, {}, batch, jax.random.key(0),
                model=spec.network(), spec=spec, loss=L1, train=True, rematerialise=True,
            )[0]
        )
    )(variables["params"])  # fmt: skip
    layers = {"encoder", "decoder", "tencoder", "tdecoder", "lstm", "layers", "layers_t"}
    names = variables["params"].keys() | variables["params"].get("crosstransformer", {}).keys()
    expected = sum(name.rstrip("0123456789").rstrip("_") in layers for name in names)
    again = [each for each in traced.eqns if each.primitive.name == "remat2" and each.params["differentiated"]]
    assert len(again) == expected > 3


def test_a_family_without_layers_of_its_own_refuses_to_compute_them_again():
    with pytest.raises(ConfigError, match="The family 'unet' does not say which layers"):
        SPEC.layers_rematerialised()


def test_dropout_of_the_transformer_follows_from_the_key():
    """In training alone, layers computed again or not."""
    spec = spec_of("htdemucs", transformer={**CONFIGS["htdemucs"]["transformer"], "dropout": 0.3})
    variables, batch = variables_of(spec), batch_of(spec, 0, examples=1)
    for train, rematerialise in [(True, False), (True, True), (False, False)]:
        loss = jax.jit(
            partial(
                objective, model=spec.network(), spec=spec, loss=L1, train=train, rematerialise=rematerialise
            )
        )  # fmt: skip
        first, again, other = (
            float(loss(variables["params"], {}, batch, jax.random.key(each))[0]) for each in (0, 0, 1)
        )
        assert first == again
        assert (first != other) == train


def test_every_device_has_a_key_of_its_own_in_every_step():
    """A loss that is the key's own number: what is told is the mean over devices, and no two of them are the same."""

    def loss(params, batch_stats, batch, key):
        drawn = jax.random.uniform(key)
        return drawn + 0 * params["w"].sum(), Evaluated({}, drawn[None], drawn[None])

    optimizer = build_optimizer(OptimizerConfig(kind="sgd", learning_rate=1e-3), {"w": np.zeros(1)})
    step = replicate_step(partial(train_step, loss_fn=loss, optimizer=optimizer))
    state = create_state({"params": {"w": np.zeros(1, np.float32)}}, optimizer, ema=False)
    batch = shard(Batch(np.zeros((4, 2, 1), np.float32), np.zeros((4, 1, 2, 1), np.float32)), 4)
    for number in range(2):
        keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), number), each) for each in range(4)]
        drawn = [float(jax.random.uniform(jax.random.fold_in(key, 0))) for key in keys]
        state, metrics = step(state, batch, jax.random.key(0))
        assert float(metrics.loss) == pytest.approx(np.mean(drawn), rel=1e-6)
        assert len(set(drawn)) == 4
