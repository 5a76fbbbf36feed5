"""From a config to what the loop runs: the network, where it starts, and the step.

Devices are in parallel.py, examples in input_pipeline.py.
"""

import fnmatch
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsep.errors import ConfigError
from jaxsep.training.objective import objective
from jaxsep.training.optimizer import build_optimizer
from jaxsep.training.state import TrainState, create_state
from jaxsep.training.step import Metrics, train_step
from jaxsep.typing import Variables
from jaxsep.weights.pretrained import load_one
from jaxsep.weights.tree import expected_shapes, flatten, unflatten
from train.augment import Examples, to_batch
from train.config import RunConfig
from train.parallel import AXIS


class Program(NamedTuple):
    """What a config comes to.

    Attributes:
        network: The module, as it is trained.
        optimizer: What updates it.
        step: (state, examples, key) -> (state, metrics), but for `axis_name`.
    """

    network: nn.Module
    optimizer: optax.GradientTransformation
    step: Any


def build_program(config: RunConfig, params: Variables) -> Program:
    """Builds network, optimizer and step.

    Args:
        config: Of the run.
        params: The parameters that will be trained; only their paths and shapes matter.

    Raises:
        ConfigError: What is to be frozen does not exist.
    """
    network = build_network(config)
    optimizer = build_optimizer(config.optimizer, params)
    step = partial(
        _step,
        loss_fn=partial(objective, model=network, spec=config.model, loss=config.loss, train=True),
        optimizer=optimizer,
        config=config,
    )
    return Program(network, optimizer, step)


def build_network(config: RunConfig) -> nn.Module:
    """Returns the module as it is trained: in the precision of the run, its statistics those of the global batch."""
    dtype = None if config.training.compute_dtype == "float32" else jnp.dtype(config.training.compute_dtype)
    return config.model.network(dtype=dtype, axis_name=AXIS)


def initial_variables(config: RunConfig) -> Variables:
    """Returns the variables before the first step: random, or those of a checkpoint.

    Raises:
        ConfigError: The checkpoint does not hold what is not said to be fresh.
        CheckpointError: It cannot be read.
    """
    shapes = expected_shapes(config.model)
    fresh = {path: True for path in shapes}
    loaded: dict[str, Any] = {}
    if config.init is not None:
        loaded = flatten(load_one(config.init.checkpoint, member=config.init.member).variables)
        fresh = {path: any(fnmatch.fnmatchcase(path, each) for each in config.init.fresh) for path in shapes}
        for pattern in config.init.fresh:
            if not any(fnmatch.fnmatchcase(path, pattern) for path in shapes):
                raise ConfigError(f"init.fresh: '{pattern}' matches no variable; they are called like '{min(shapes)}'.")
        for path, shape in shapes.items():
            found = np.shape(loaded[path]) if path in loaded else "nothing"
            if not fresh[path] and found != shape:
                raise ConfigError(
                    f"The model needs '{path}' of shape {shape}, and '{config.init.checkpoint}' has {found}; change "
                    "the model, or name it in init.fresh to start it from random numbers."
                )
    drawn = flatten(_draw(config)) if any(fresh.values()) else {}
    return unflatten({path: drawn[path] if fresh[path] else loaded[path] for path in shapes})


def initial_state(config: RunConfig, program: Program, variables: Variables) -> TrainState:
    """Returns the state before the first step."""
    return create_state(variables, program.optimizer, ema=config.training.ema_decay is not None)


def _draw(config: RunConfig) -> Variables:
    module = config.model.network()
    shape = (1, *config.model.input_shape(config.segment_length))
    init_key = jax.random.fold_in(jax.random.key(config.training.seed), 0)
    # On the host's processor, the same numbers for every kind of device; compiled, since draws one by one are slow.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        drawn = jax.jit(lambda key: module.init(key, jnp.zeros(shape), train=False))(init_key)
    return jax.device_get(drawn)


def _step(
    state: TrainState,
    examples: Examples,
    key: jax.Array,
    *,
    loss_fn: Any,
    optimizer: optax.GradientTransformation,
    config: RunConfig,
    axis_name: str | None,
) -> tuple[TrainState, Metrics]:
    """Augments a share of the global batch and makes a step with it."""
    augment_key, step_key = jax.random.split(key)
    batch = to_batch(
        examples,
        augment_key,
        config=config.augment,
        segment_length=config.segment_length,
        n_sources=len(config.model.stems),
    )
    return train_step(
        state,
        batch,
        step_key,
        loss_fn=loss_fn,
        optimizer=optimizer,
        axis_name=axis_name,
        accumulation=config.training.accumulation,
        ema_decay=config.training.ema_decay,
    )
