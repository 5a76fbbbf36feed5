"""TrainState: all that a run is between two steps. One pytree, to be saved and restored as a whole."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxsep.typing import Variables


class TrainState(flax.struct.PyTreeNode):
    """What changes from step to step.

    Leaves are not checked: a pytree also holds shapes, specs and whatever else JAX maps over it.

    Attributes:
        step: Finished steps, int32.
        params: The model's parameters, float32.
        batch_stats: Its running statistics; empty for models that have none.
        opt_state: Of the optimizer.
        ema_params: The exponential moving average of the parameters; None for none.
        learning_rate_factor: What validation has made of the learning rate (schedule 'plateau'); else 1.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    learning_rate_factor: Any

    @property
    def evaluated_variables(self) -> Variables:
        """What validation and release use: the average of the parameters where there is one."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, **({"batch_stats": self.batch_stats} if self.batch_stats else {})}


def create_state(variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """Returns the state before the first step.

    Args:
        variables: The model's variables, initialised or loaded.
        optimizer: From `build_optimizer`.
        ema: Whether to keep an average of the parameters.
    """
    # A copy of its own for each: the step gives its buffers away, and one cannot be given twice.
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), variables["params"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=jax.tree.map(jnp.array, dict(variables.get("batch_stats", {}))),
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.array, params) if ema else None,
        learning_rate_factor=jnp.ones((), jnp.float32),
    )
