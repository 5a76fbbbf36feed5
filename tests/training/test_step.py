"""The step: devices and accumulation change nothing, what is not finite changes nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.step_runs import SPEC, assert_close, batch_of, run, step_and_state
from weights.small_models import small_spec

from jaxsep.errors import ConfigError
from jaxsep.models import FAMILIES
from jaxsep.models.cutting import whole_outputs
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNet
from jaxsep.training.objective import Batch, LossConfig, LossTerm, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step
from jaxsep.weights.rules import SPECS
from jaxsep.weights.tree import flatten
from train.parallel import AXIS, check_batch_size, replicate_step, shard


@pytest.mark.parametrize("family", ["jansson", "classic_unet"])
def test_four_devices_train_other_families_as_one_does(family):
    """Ten Adam steps with the same global batch."""
    form = {"jansson": "jansson", "classic_unet": "classic-unet"}[family]
    shape = {"n_sources": 2, "channels": 2, "bins": 16, "filters": (4, 6), "dropout": 0.0}
    config = SPECS[form].config.model_dump() | {key: value for key, value in shape.items() if key != "dropout"}
    config |= {"dropout": 0.0} if family == "jansson" else {}
    spec = small_spec(family=family, config=config, masks={"kind": "direct"})
    states = []
    for devices in (None, 4):
        model = FAMILIES[family].module(spec.config, form="native", axis_name=AXIS if devices else None)
        variables = drawn(model)
        optimizer = build_optimizer(OptimizerConfig(learning_rate=1e-4), variables["params"])
        loss_fn = partial(objective, model=model, spec=spec, loss=LossConfig(), train=True)
        step = partial(train_step, loss_fn=loss_fn, optimizer=optimizer)
        step = replicate_step(step) if devices else jax.jit(partial(step, axis_name=None))
        states.append(run(step, create_state(variables, optimizer, ema=False), 10, devices=devices)[0])
    for part in ("params", "batch_stats"):
        # As for the U-Net.
        assert_close(getattr(states[1], part), getattr(states[0], part), 1e-5)


@pytest.mark.parametrize(
    ("form", "shape"),
    [("wave-unet-m5", {"levels": 2, "filters": 3}), ("wave-unet-torch", {"n_sources": 2, "filters": (8, 16)})],
)
def test_four_devices_train_the_wave_unets_as_one_does(form, shape):
    """Ten Adam steps with the same global batch, whose sources are longer than their estimates."""
    config = SPECS[form].config.model_copy(update=shape)
    lengths = config.lengths(20)
    procedure = {"cutting": whole_outputs(*lengths, last="padded")}
    changes = {"config": config, "procedure": procedure, "stems": ("first", "second")}
    spec = ModelSpec.parse({**SPECS[form].model_dump(), **changes}, where="the test")
    model = FAMILIES[spec.family].module(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((lengths.input, 2)), train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32) / 2, shapes)
    optimizer = build_optimizer(OptimizerConfig(learning_rate=1e-4), variables["params"])
    loss = LossConfig(terms=(LossTerm(kind="waveform_l2"),))
    step = partial(
        train_step, loss_fn=partial(objective, model=model, spec=spec, loss=loss, train=True), optimizer=optimizer
    )
    states = []
    for devices in (None, 4):
        run_step = replicate_step(step) if devices else jax.jit(partial(step, axis_name=None))
        state = create_state(variables, optimizer, ema=False)
        for index in range(10):
            sources = np.random.default_rng(index).standard_normal((8, 2, lengths.input, 2)).astype(np.float32) * 0.2
            batch = Batch(sources.sum(axis=1), sources)
            state, metrics = run_step(state, shard(batch, devices) if devices else batch, jax.random.key(0))
        assert np.isfinite(metrics.loss)
        states.append(jax.device_get(state))
    # As for the U-Net.
    assert_close(states[1].params, states[0].params, 1e-5)
    filters = [leaf for path, leaf in flatten(states[0].params).items() if path.endswith("filter")]
    given = [leaf for path, leaf in flatten(variables["params"]).items() if path.endswith("filter")]
    assert len(filters) == (4 if form == "wave-unet-torch" else 0)
    for after, before in zip(filters, given, strict=True):
        np.testing.assert_array_equal(after, before)  # fixed, as the redesign has them


def drawn(model):
    """Random parameters that no leaf of is nearly zero, and the statistics of a start."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 16, 2)), train=False))
    rng = np.random.default_rng(0)
    constants = {"mean": 0.0, "var": 1.0}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.full(leaf.shape, constants[path[-1].key], np.float32)
            if path[-1].key in constants
            else rng.standard_normal(leaf.shape).astype(np.float32)
        ),
        shapes,
    )


def test_four_devices_train_as_one_does():
    """Ten Adam steps with the same global batch: parameters, statistics, the average and what the steps tell."""
    assert len(jax.devices()) == 4
    alone, state = step_and_state(ema=True, ema_decay=0.9)
    expected, told = run(jax.jit(partial(alone, axis_name=None)), state, 10)
    together, state = step_and_state(axis_name=AXIS, ema=True, ema_decay=0.9)
    found, told_together = run(replicate_step(together), state, 10, devices=4)
    for part in ("params", "batch_stats", "ema_params"):
        # Means of four means in float32, through ten steps of 1e-3.
        assert_close(getattr(found, part), getattr(expected, part), 1e-5)
    for one, four in zip(told, told_together, strict=True):
        np.testing.assert_allclose(four.loss, one.loss, rtol=1e-5)
        np.testing.assert_allclose(four.gradient_norm, one.gradient_norm, rtol=1e-4)


def test_accumulation_gives_the_gradients_of_the_whole_batch():
    """Where norms keep their statistics: those of a batch would be those of its parts."""
    config = OptimizerConfig(kind="sgd", learning_rate=1e-2)
    states = []
    for parts in (1, 4):
        step, state = step_and_state(config, accumulation=parts)
        frozen = UNet(SPEC.config.model_copy(update={"batch_statistics": False}), form="native")
        step.keywords["loss_fn"].keywords["model"] = frozen
        states.append(run(jax.jit(partial(step, axis_name=None)), state, 3)[0])
    assert_close(states[1].params, states[0].params, 1e-5)  # sums of eight gradients in another order


def test_a_step_that_is_not_finite_changes_nothing_and_says_so():
    step, state = step_and_state(ema=True, ema_decay=0.9)
    before = jax.device_get(state)
    batch = batch_of(0)
    batch.mixture[3, 10, 0] = np.nan
    after, metrics = jax.jit(partial(step, axis_name=None))(state, batch, jax.random.key(0))
    assert not metrics.finite
    assert after.step == 1
    for part in ("params", "batch_stats", "opt_state", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(before, part))


def test_the_average_of_parameters_is_exponential():
    step, state = step_and_state(ema=True, ema_decay=0.75)
    expected = jax.device_get(state.params)
    jitted = jax.jit(partial(step, axis_name=None))
    for index in range(3):
        state, _ = jitted(state, batch_of(index), jax.random.key(0))
        expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * np.asarray(b), expected, state.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), state.ema_params, expected)


def test_an_unbiased_average_is_that_of_demucs():
    """ModelEMA of demucs/ema.py: count = count * decay + 1, and the newest parameters weigh 1 / count."""
    step, state = step_and_state(ema=True, ema_decay=0.75, ema_unbiased=True)
    expected, count = jax.device_get(state.params), 0.0
    jitted = jax.jit(partial(step, axis_name=None))
    for index in range(3):
        state, _ = jitted(state, batch_of(index), jax.random.key(0))
        count = count * 0.75 + 1
        weight = 1 / count
        expected = jax.tree.map(lambda a, b, w=weight: (1 - w) * a + w * np.asarray(b), expected, state.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), state.ema_params, expected)


def test_the_learning_rate_factor_scales_the_update():
    config = OptimizerConfig(kind="sgd", learning_rate=1e-2)
    step, state = step_and_state(config)
    jitted = jax.jit(partial(step, axis_name=None))
    whole = jitted(state, batch_of(0), jax.random.key(0))[0]
    tenth = jitted(state.replace(learning_rate_factor=jnp.float32(0.1)), batch_of(0), jax.random.key(0))[0]
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), whole.params, state.params)
    expected = jax.tree.map(lambda start, change: np.asarray(start) + 0.1 * change, state.params, moved)
    # The difference of two float32 parameters has lost some digits.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), tenth.params, expected)


def test_dropout_differs_between_steps_and_repeats_between_runs():
    config = SPEC.config.model_copy(update={"dropout": 0.5})
    step, state = step_and_state(OptimizerConfig(kind="sgd", learning_rate=1e-9))
    step.keywords["loss_fn"].keywords["model"] = UNet(config, form="native")
    jitted = jax.jit(partial(step, axis_name=None))
    first = jitted(state, batch_of(0), jax.random.key(0))[1].loss
    again = jitted(state, batch_of(0), jax.random.key(0))[1].loss
    later = jitted(state.replace(step=jnp.int32(1)), batch_of(0), jax.random.key(0))[1].loss
    assert first == again
    assert first != later


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="make it a multiple of 8"):
        check_batch_size(12, devices=4, accumulation=2)
    check_batch_size(16, devices=4, accumulation=2)


def test_gradients_are_averaged_and_not_summed():
    """Plain SGD by hand: parameters move by the rate times the gradient of the mean over the batch."""
    step, state = step_and_state(OptimizerConfig(kind="sgd", learning_rate=0.1))
    loss_fn = step.keywords["loss_fn"]
    gradients = jax.jit(
        jax.grad(lambda p: loss_fn(p, state.batch_stats, jax.tree.map(jnp.asarray, batch_of(0)), jax.random.key(0))[0])
    )(state.params)
    after, metrics = jax.jit(partial(step, axis_name=None))(state, batch_of(0), jax.random.key(0))
    jax.tree.map(
        lambda new, old, g: np.testing.assert_allclose(new, old - 0.1 * g, rtol=1e-5, atol=1e-6),
        after.params, state.params, gradients,
    )  # fmt: skip
    assert metrics.gradient_norm == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
