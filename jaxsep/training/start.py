"""What a training loop of one's own begins with: random variables, their state, and a compiled step on one device.

Many devices, and all else that long runs need, are in `train/`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxsep.models.spec import ModelSpec
from jaxsep.training.objective import Batch, LossConfig, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import TrainState, create_state
from jaxsep.training.step import Metrics, train_step
from jaxsep.typing import Variables

# (state, batch) -> (the state after it, what it tells). The state that goes in is given away.
CompiledStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def start_training(
    spec: ModelSpec,
    *,
    variables: Variables | None = None,
    optimizer: OptimizerConfig | None = None,
    loss: LossConfig | None = None,
    seed: int = 0,
) -> tuple[TrainState, CompiledStep]:
    """Returns the state before the first step, and the step, which is compiled when it is first made.

    Args:
        spec: The model.
        variables: What it starts from, such as `jaxsep.load_model(name).variables`; None for random numbers.
        optimizer: What minimises the objective; None for Adam as `OptimizerConfig` has it.
        loss: The objective; None for that of `LossConfig`.
        seed: Seed of random variables and of dropout.

    Raises:
        ConfigError: The loss does not fit the model, or what is to be frozen does not exist.
    """
    loss, optimizer = loss or LossConfig(), optimizer or OptimizerConfig()
    network, key = spec.network(), jax.random.key(seed)
    loss.check(spec, spec.chunk_length)
    if variables is None:
        variables = jax.jit(partial(network.init, train=False))(key, jnp.zeros((1, *spec.input_shape())))
    transformation = build_optimizer(optimizer, variables["params"])
    step = jax.jit(
        partial(
            train_step,
            loss_fn=partial(objective, model=network, spec=spec, loss=loss, train=True),
            optimizer=transformation,
            axis_name=None,
        ),
        donate_argnums=0,
    )
    return create_state(variables, transformation, ema=False), lambda state, batch: step(state, batch, key)
