"""What both domains have in common: what encoding hands on to decoding, and the choice of sources."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

# Calls the network on inputs with any batch axes.
Apply = Callable[[Any], Any]
# Weight of each unit of a chunk, as in `jaxsep.dsp.cuts.Cut`.
Weights = Float[Array, "*batch unit"]


class Context(NamedTuple):
    """What decoding needs again of the mixture.

    Attributes:
        spectrogram: The mixture's spectrogram with all bins; None for networks on waveforms.
        weights: Weights of the chunk's samples or frames; None for 1.
    """

    spectrogram: Any
    weights: Weights | None


def select(values: Inexact[Array, "*shape"], sources: tuple[int, ...] | None, *, axis: int) -> Inexact[Array, "*part"]:
    """Returns those sources of the axis; nothing is computed where they are all, in order, or None."""
    if sources is None or sources == tuple(range(values.shape[axis])):
        return values
    return jnp.take(values, np.asarray(sources), axis=axis)
