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
        config: The run's config.
        params: The parameters that will be trained; only their paths and shapes matter.

    Raises:
        ConfigError: What is to be frozen does not exist.
    """
    network = build_network(config)
    optimizer = build_optimizer(config.optimizer, params)
    step = partial(
        _step,
        loss_fn=partial(
            objective,
            model=network,
            spec=config.model,
            loss=config.loss,
            train=True,
            rematerialise=config.training.rematerialise,
        ),
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
    loaded = loaded_variables(config)
    drawn = flatten(_draw(config)) if loaded.keys() != shapes.keys() else {}
    return unflatten({path: loaded[path] if path in loaded else drawn[path] for path in shapes})


def loaded_variables(config: RunConfig) -> dict[str, Any]:
    """Returns those of the variables before the first step that are a checkpoint's, by path.

    Raises:
        ConfigError: The checkpoint does not hold what is not said to be fresh, or a pattern matches nothing.
        CheckpointError: It cannot be read.
    """
    if config.init is None:
        return {}
    shapes, init = expected_shapes(config.model), config.init
    for pattern in init.fresh:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in shapes):
            raise ConfigError(f"init.fresh: '{pattern}' matches no variable; they are called like '{min(shapes)}'.")
    loaded = flatten(load_one(init.checkpoint, member=init.member).variables)
    wanted = [path for path in shapes if not any(fnmatch.fnmatchcase(path, each) for each in init.fresh)]
    for path in wanted:
        found = np.shape(loaded[path]) if path in loaded else "nothing"
        if found != shapes[path]:
            raise ConfigError(
                f"The model needs '{path}' of shape {shapes[path]}, and '{init.checkpoint}' has {found}; change the "
                "model, or name it in init.fresh to start it from random numbers."
            )
    return {path: loaded[path] for path in wanted}


def initial_state(config: RunConfig, program: Program, variables: Variables) -> TrainState:
    """Returns the state before the first step."""
    return create_state(variables, program.optimizer, ema=config.training.ema_decay is not None)


def state_bytes(config: RunConfig) -> int:
    """Returns how large the state of a run is, and so each of its checkpoints. Nothing is computed.

    Raises:
        ConfigError: What is to be frozen does not exist.
    """
    shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in expected_shapes(config.model).items()}
    variables = unflatten(shapes)
    optimizer = build_optimizer(config.optimizer, variables["params"])
    ema = config.training.ema_decay is not None
    state = jax.eval_shape(partial(create_state, optimizer=optimizer, ema=ema), variables)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def step_shapes(config: RunConfig, share: tuple[int, ...]) -> tuple[Program, Any, Any, Any]:
    """Returns the step of a recipe and the shapes that go into it. Nothing is drawn, read or computed.

    Args:
        config: The recipe.
        share: Leading axes of a batch: (devices, examples of each) for a replicated step, (examples,) for one alone.

    Returns:
        The program, and the shapes of its state, examples and key.
    """
    spec = config.model
    key = jax.eval_shape(lambda: jax.random.key(0))
    shape = spec.input_shape(config.segment_length)
    mixture = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(partial(spec.network().init, train=False), key, mixture)
    program = build_program(config, variables["params"])
    ema = config.training.ema_decay is not None
    state = jax.eval_shape(partial(create_state, optimizer=program.optimizer, ema=ema), variables)
    length = config.segment_length + config.augment.shift
    sources = jax.ShapeDtypeStruct((*share, len(spec.stems), length, spec.channels), jnp.float32)
    examples = Examples(sources, jax.ShapeDtypeStruct(share, jnp.int32))
    return program, state, examples, key


def check_step(config: RunConfig) -> None:
    """Traces a step of a recipe, so that what cannot be built is known before anything is computed.

    Raises:
        ConfigError: It cannot be built.
    """
    try:
        program, *shapes = step_shapes(config, (1, config.training.accumulation))
        # One of many devices, as far as axes are concerned.
        step = jax.vmap(partial(program.step, axis_name=AXIS), in_axes=(None, 0, None), axis_name=AXIS)
        jax.eval_shape(step, *shapes)
    except ConfigError:
        raise
    except Exception as error:  # of shapes that do not fit, which have no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300].removesuffix(".")
        raise ConfigError(f"A step of this recipe cannot be built: {reason}.") from None


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
        ema_unbiased=config.training.ema_unbiased,
    )
