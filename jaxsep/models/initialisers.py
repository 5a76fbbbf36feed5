"""First values of parameters, drawn as PyTorch draws them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Initialiser = Callable[..., Any]


def uniform(bound: float) -> Initialiser:
    """Returns an initialiser of uniform numbers between -bound and bound."""

    def draw(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def convolution_bound(fan_in: int, rescale: float = 0.0) -> float:
    """Returns the bound between which PyTorch draws kernel and bias of a convolution or a linear layer.

    Args:
        fan_in: Number of inputs of each output.
        rescale: Demucs's reference: kernel and bias are divided by the root of the kernel's standard deviation over
            it; 0 leaves them. Of what is drawn the expected deviation is taken.
    """
    bound = 1 / math.sqrt(fan_in)
    if rescale:
        bound /= math.sqrt(bound / math.sqrt(3) / rescale)
    return bound
