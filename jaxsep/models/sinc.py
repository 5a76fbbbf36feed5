"""Resampling by two inside of networks, as julius.resample_frac does it (adefossez/julius, julius/resample.py)."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ZEROS = 24
ROLLOFF = 0.945


def upsample(waveforms: Float[Array, "batch time channel"]) -> Float[Array, "batch double channel"]:
    """Returns waveforms at twice the rate."""
    return _resampled(waveforms, 1, 2, 2 * waveforms.shape[1])


def downsample(waveforms: Float[Array, "batch time channel"]) -> Float[Array, "batch half channel"]:
    """Returns waveforms at half the rate; of an odd number of samples the last one gives none."""
    return _resampled(waveforms, 2, 1, waveforms.shape[1] // 2)


def _resampled(waveforms: Array, old: int, new: int, length: int) -> Array:
    batch, _, channels = waveforms.shape
    kernels, width = _kernels(old, new)
    padded = jnp.pad(waveforms, [(0, 0), (width, width + old), (0, 0)], mode="edge")
    by_channel = jnp.swapaxes(padded, 1, 2).reshape(batch * channels, -1, 1)
    kernel = jnp.asarray(kernels.T[:, None], waveforms.dtype)
    found = jax.lax.conv_general_dilated(by_channel, kernel, (old,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    return jnp.swapaxes(found.reshape(batch, channels, -1)[..., :length], 1, 2)


@cache
def _kernels(old: int, new: int) -> tuple[Float[np.ndarray, "phase tap"], int]:
    """Returns a windowed sinc for each phase of the output, of sum 1, and the taps before its middle."""
    rate = min(old, new) * ROLLOFF
    width = math.ceil(ZEROS * old / rate)
    places = np.arange(-width, width + old) / old
    kernels = []
    for phase in range(new):
        angle = np.pi * np.clip((places - phase / new) * rate, -ZEROS, ZEROS)
        kernel = np.sinc(angle / np.pi) * np.cos(angle / ZEROS / 2) ** 2
        kernels.append(kernel / kernel.sum())
    return np.stack(kernels), width
