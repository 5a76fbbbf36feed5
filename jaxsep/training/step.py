"""One step of training, pure: gradients, their average over devices, the update. It knows of devices an axis name only.

`train/parallel.py` runs it on many; `jax.jit` alone runs it on one.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsep.training.objective import Batch, Evaluated
from jaxsep.training.state import TrainState
from jaxsep.typing import Variables

# (params, batch_stats, batch, key) -> (objective, what else is known): `objective` with its options bound.
LossFunction = Callable[[Variables, Variables, Batch, PRNGKeyArray], tuple[Float[Array, ""], Evaluated]]


class Metrics(flax.struct.PyTreeNode):
    """What a step tells; scalars on the device, but for `stems`.

    Attributes:
        loss: The objective, averaged over the global batch.
        stems: The loss of each source, (source,).
        gradient_norm: Global, before clipping.
        finite: Whether loss and gradients were; if not, the state did not change but for its step.
    """

    loss: Any
    stems: Any
    gradient_norm: Any
    finite: Any


# Optax raises decays to integer powers, which strict promotion refuses; it is for a caller's own code.
@jax.numpy_dtype_promotion("standard")
def train_step(
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
    accumulation: int = 1,
    ema_decay: float | None = None,
    ema_unbiased: bool = False,
) -> tuple[TrainState, Metrics]:
    """Makes one step.

    Args:
        state: Before the step.
        batch: This device's share of the global batch; all shares are of one size.
        key: Of the run; the step's own keys are folded from it, the step and the device.
        loss_fn: The objective.
        optimizer: From `build_optimizer`.
        axis_name: Over which gradients, metrics and statistics are averaged; None on one device.
        accumulation: In how many parts, one after the other, the batch is differentiated, for less memory. Batch
            statistics are then those of the parts.
        ema_decay: Weight of the old average of the parameters; used where the state has one.
        ema_unbiased: Whether the average leaves out the parameters from before the first step, as that of Demucs
            (demucs/ema.py): weights of all steps sum to 1.

    Returns:
        The state after the step, and what it tells. A step whose loss or gradients are not finite changes nothing.
    """
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    mean, batch_stats = _differentiate(loss_fn, state, batch, key, accumulation)
    if axis_name is not None:
        mean, batch_stats = jax.lax.pmean((mean, batch_stats), axis_name)
    loss, stems, gradients = mean
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    def changed() -> tuple[Any, ...]:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda leaf: leaf * state.learning_rate_factor, updates)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(
                params, ema_params, _share(state.step, ema_decay or 0.0, ema_unbiased)
            )
        return params, batch_stats, opt_state, ema_params

    def kept() -> tuple[Any, ...]:
        return state.params, state.batch_stats, state.opt_state, state.ema_params

    # A branch, and not a choice between two results: on CPUs XLA makes copies for that, and the update takes 2.7 times
    # as long.
    params, batch_stats, opt_state, ema_params = jax.lax.cond(finite, changed, kept)
    after = state.replace(
        step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema_params=ema_params
    )
    return after, Metrics(loss, stems, norm, finite)


def _share(step: Any, decay: float, unbiased: bool) -> Any:
    """Returns the weight of the newest parameters in their average."""
    if not unbiased or not decay:
        return 1 - decay
    # What the weights of so many steps sum to; the difference to 1 is lost in float32 where the decay is near 1.
    return (1 - decay) / -jnp.expm1((step + 1).astype(jnp.float32) * math.log(decay))


def _differentiate(
    loss_fn: LossFunction, state: TrainState, batch: Batch, key: PRNGKeyArray, parts: int
) -> tuple[tuple[Float[Array, ""], Float[Array, " source"], Variables], Variables]:
    """Returns loss, stems and gradients averaged over parts, and the statistics after the last part."""
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    batch_stats, found = state.batch_stats, []
    # Unrolled: inside of a scan, XLA on CPU takes 20 times longer for the gradient of a kernel.
    for index in range(parts):
        part = jax.tree.map(lambda leaf, index=index: _part(leaf, index, parts), batch)
        (loss, evaluated), gradients = value_and_grad(state.params, batch_stats, part, jax.random.fold_in(key, index))
        batch_stats = evaluated.batch_stats
        found.append((loss, evaluated.stems, gradients))
    return jax.tree.map(lambda *leaves: functools.reduce(jnp.add, leaves) / parts, *found), batch_stats


def _part(leaf: Float[Array, "batch ..."], index: int, parts: int) -> Float[Array, "part ..."]:
    size = leaf.shape[0] // parts
    return leaf[index * size : (index + 1) * size]
