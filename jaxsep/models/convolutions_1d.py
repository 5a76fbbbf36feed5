"""The Wave-U-Nets' convolutions along time, each in the form that is fastest for its platform.

The U-Nets' are in `convolutions.py`. Nothing is padded here: these are 'valid' convolutions, whose output is shorter by
the kernel less one.

Measured at the shapes of M4 on two cores (AVX-512, jax 0.10, float32): XLA's own with stride 1 is as fast as PyTorch's,
and its derivatives twice as fast or more; products of shifted slices take 2 to 6 times as long, and so does a matrix of
such slices. With stride 2, XLA's gradient by the kernel takes 2 to 4 times as long as with stride 1.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsep.models.convolutions import ConvolutionForm, choose_form

_DIMENSIONS = ("NWC", "WIO", "NWC")


def convolve(
    maps: Float[Array, "batch time in_channel"], kernel: Float[Array, "kernel in_channel out_channel"]
) -> Float[Array, "batch out_time out_channel"]:
    """Convolves along time, where the kernel lies wholly inside of the maps."""
    return jax.lax.conv_general_dilated(maps, kernel, (1,), "VALID", dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_and_halve(
    maps: Float[Array, "batch time in_channel"],
    kernel: Float[Array, "kernel in_channel out_channel"],
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch out_time out_channel"]:
    """Returns every second sample of `convolve`, from the first on: what decimation leaves of it.

    Args:
        maps: Of any length that the kernel fits into.
        kernel: Of any size.
        form: How it is computed.
    """
    return choose_form(form, _halved_by_phases, _halved_native, maps, kernel)


def _forward(maps: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, Array]]:
    return convolve_and_halve(maps, kernel, form), (maps, kernel)


def _backward(form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def pulled_back(function: Callable[..., Array], maps: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        return jax.vjp(function, maps, kernel)[1](gradient)

    on_cpu = functools.partial(pulled_back, _halved_by_phases)
    native = functools.partial(pulled_back, _halved_native)
    return choose_form(form, on_cpu, native, *saved, gradient)


convolve_and_halve.defvjp(_forward, _backward)


def _halved_native(maps: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(maps, kernel, (2,), "VALID", dimension_numbers=_DIMENSIONS)


def _halved_by_phases(maps: Array, kernel: Array) -> Array:
    """A convolution of stride 1 over pairs of samples, whose channels lie side by side."""
    batch, length, channels = maps.shape
    size, _, features = kernel.shape
    halved = (length - size) // 2 + 1
    # Of an odd kernel, the last pair has one sample that counts for nothing.
    pairs = (size + 1) // 2
    kernel = jnp.pad(kernel, ((0, 2 * pairs - size), (0, 0), (0, 0)))
    seen = 2 * (halved + pairs - 1)
    maps = jnp.pad(maps[:, :seen], ((0, 0), (0, max(seen - length, 0)), (0, 0)))
    return convolve(maps.reshape(batch, seen // 2, 2 * channels), kernel.reshape(pairs, 2 * channels, features))
