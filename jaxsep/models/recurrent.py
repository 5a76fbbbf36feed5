"""LSTMs as PyTorch has them: its order of gates, two biases; both directions of a layer run in one scan."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.models.initialisers import uniform


class LSTM(nn.Module):
    """A stack of LSTMs over time, torch.nn.LSTM.

    Attributes:
        features: Size of the state of each direction.
        layers: Number of layers; each but the first hears what both directions of the one before give.
        bidirectional: Whether a second direction runs from the last step to the first.
        dtype: What it is computed in; None for that of parameters and input.
    """

    features: int
    layers: int = 1
    bidirectional: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch time channel"]) -> Float[Array, "batch time out_channel"]:
        """Returns the state of each step, the forward direction's channels first."""
        maps = inputs
        for layer in range(self.layers):
            maps = self._layer(maps, f"l{layer}")
        return maps

    def _layer(self, maps: Array, name: str) -> Array:
        bound = self.features**-0.5
        gates, recurrent = [], []
        for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
            kernel, state_kernel = (
                self.param(f"weight_{kind}_{name}{suffix}", uniform(bound), (size, 4 * self.features))
                for kind, size in (("ih", maps.shape[-1]), ("hh", self.features))
            )
            biases = [
                self.param(f"bias_{kind}_{name}{suffix}", uniform(bound), (4 * self.features,)) for kind in ("ih", "hh")
            ]
            heard, kernel, state_kernel, *biases = nn.dtypes.promote_dtype(
                maps[:, ::-1] if suffix else maps, kernel, state_kernel, *biases, dtype=self.dtype
            )
            # All steps at once; only the product with the state has to wait for the step before.
            gates.append(heard @ kernel + (biases[0] + biases[1])[None, None])
            recurrent.append(state_kernel)
        forwards, *backwards = _run(jnp.stack(gates), jnp.stack(recurrent))
        return jnp.concatenate([forwards, *(each[:, ::-1] for each in backwards)], axis=-1)


def _run(
    gates: Float[Array, "direction batch time gate"], kernels: Float[Array, "direction feature gate"]
) -> Float[Array, "direction batch time feature"]:
    """Returns the states of independent directions, all of which run from the first step to the last."""

    def step(carry: tuple[Array, Array], heard: Array) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = carry
        let_in, forget, candidate, let_out = jnp.split(heard + hidden @ kernels, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(let_in) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(let_out) * jnp.tanh(cell)
        return (hidden, cell), hidden

    start = jnp.zeros((*gates.shape[:2], kernels.shape[1]), gates.dtype)
    _, states = jax.lax.scan(step, (start, start), jnp.moveaxis(gates, 2, 0))
    return jnp.moveaxis(states, 0, 2)
