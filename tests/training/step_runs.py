"""Runs of the step on made-up batches, for tests of it."""

from functools import partial

import jax
import numpy as np
from weights.small_models import small_spec, small_variables

from jaxsep.models.unet import UNet
from jaxsep.training.objective import Batch, LossConfig, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step
from train.parallel import shard

# Without dropout: its masks depend on how the batch is divided. In the native form: the question is the step.
SPEC = small_spec(config={**small_spec().config.model_dump(), "dropout": 0.0})


def batch_of(step, examples=8):
    rng = np.random.default_rng(step)
    shape = (examples, 2, SPEC.procedure.cutting.chunk_length, 2)
    sources = rng.standard_normal(shape).astype(np.float32) * 0.2
    return Batch(sources.sum(axis=1), sources)


def step_and_state(config=None, *, axis_name=None, ema=False, **options):
    variables = initial_variables()
    optimizer = build_optimizer(config or OptimizerConfig(learning_rate=1e-3), variables["params"])
    model = UNet(SPEC.config, form="native", axis_name=axis_name)
    loss_fn = partial(objective, model=model, spec=SPEC, loss=LossConfig(), train=True)
    step = partial(train_step, loss_fn=loss_fn, optimizer=optimizer, **options)
    return step, create_state(variables, optimizer, ema=ema)


def initial_variables():
    """As at the start of a training: statistics 0 and 1."""
    variables = small_variables(SPEC)
    stats = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.ones_like(leaf) if path[-1].key == "var" else np.zeros_like(leaf),
        variables["batch_stats"],
    )
    return {"params": variables["params"], "batch_stats": stats}


def run(step, state, steps, key=0, devices=None):
    metrics = []
    for index in range(steps):
        batch = batch_of(index)
        state, found = step(state, shard(batch, devices) if devices else batch, jax.random.key(key))
        metrics.append(jax.device_get(found))
    return jax.device_get(state), metrics


def assert_close(found, expected, tolerance):
    """Relative L2 of each leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = dict(jax.tree_util.tree_leaves_with_path(found))[path]
        error = np.linalg.norm(np.asarray(other) - leaf) / np.linalg.norm(leaf)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.2e}"
