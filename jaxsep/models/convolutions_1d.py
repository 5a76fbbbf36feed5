"""Convolutions along time, each in the form that is fastest for its platform: the Wave-U-Nets', and one of Demucs's.

The U-Nets' are in `convolutions.py`. Nothing is padded but in `convolve_same`: the others are 'valid' convolutions,
whose output is shorter by the kernel less one.

Measured at the shapes of M4 on two cores (AVX-512, jax 0.10, float32): XLA's own with stride 1 is as fast as PyTorch's,
and its derivatives twice as fast or more; products of shifted slices take 2 to 6 times as long, and so does a matrix of
such slices. With stride 2, XLA's gradient by the kernel takes 2 to 4 times as long as with stride 1. The derivatives
are written so that XLA makes fewer copies.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsep.models.convolutions import ConvolutionForm, choose_form

_DIMENSIONS = ("NWC", "WIO", "NWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    maps: Float[Array, "batch time in_channel"],
    kernel: Float[Array, "kernel in_channel out_channel"],
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch out_time out_channel"]:
    """Convolves along time, where the kernel lies wholly inside of the maps.

    Args:
        maps: Of any length that the kernel fits into.
        kernel: Of any size.
        form: How its derivatives are computed; of itself there is one form.
    """
    return _native(maps, kernel)


def _convolve_forward(maps: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, Array]]:
    return _native(maps, kernel), (maps, kernel)


def _convolve_backward(form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    return choose_form(form, _derivatives_on_cpu, _derivatives_native, *saved, gradient)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _native(maps: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(maps, kernel, (1,), "VALID", dimension_numbers=_DIMENSIONS)


def _derivatives_native(maps: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    # The TPU's compiler splits long maps of small batches into larger batches, and without the barrier aborts over what
    # that makes of the kernel's gradient (libtpu 0.0.42, `space_to_batch_converter`: M4 at four examples a chip).
    maps = jax.lax.optimization_barrier(maps)
    return jax.vjp(_native, maps, kernel)[1](gradient)


def _derivatives_on_cpu(maps: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    if kernel.size > maps.size + gradient.size:
        by_maps = _by_maps_in_one_product(gradient, kernel)
    else:
        (by_maps,) = jax.vjp(lambda maps: _native(maps, kernel), maps)[1](gradient)
    return by_maps, _by_kernel_in_one_row(maps, gradient)


def _by_maps_in_one_product(gradient: Array, kernel: Array) -> Array:
    """Multiplies with all taps at once, by the kernel as it lies in memory, and adds up what they send back.

    XLA's own transposes the kernel first, which takes longer than the rest where it is larger than the maps: on two
    cores with AVX2 this is 2.7 times as fast at 1024 channels and 90 samples, 1.4 times at 512 and 1024 channels and
    370 samples.
    """
    batch, length, features = gradient.shape
    size, channels, _ = kernel.shape
    # Of two axes each, or XLA transposes the kernel here too.
    rows, columns = gradient.reshape(batch * length, features), kernel.reshape(size * channels, features)
    sent = jax.lax.dot_general(rows, columns, (((1,), (1,)), ((), ()))).reshape(batch, length, size, channels)
    return functools.reduce(jnp.add, (jnp.pad(sent[:, :, k], ((0, 0), (k, size - 1 - k), (0, 0))) for k in range(size)))


def _by_kernel_in_one_row(maps: Array, gradient: Array) -> Array:
    """Convolves maps, whose channels are the batch, with gradients, whose examples lie one behind the other.

    As XLA has it in the end, which otherwise computes or copies the gradient a second time, for an order of axes that
    in memory is the same. On two cores with AVX2 the derivatives of the large layers take 0 to 15 % less with it.
    """
    batch, length, channels = maps.shape
    size, features = length - gradient.shape[1] + 1, gradient.shape[2]
    # Zeros keep the examples apart, of which the last needs none.
    row = jnp.pad(gradient, ((0, 0), (0, size - 1), (0, 0))) if batch > 1 else gradient
    row = row.reshape(-1, 1, features)[: batch * length - size + 1]
    return _native(maps.reshape(batch * length, channels).T[:, :, None], row).swapaxes(0, 1)


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


def _halve_forward(maps: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, Array]]:
    return convolve_and_halve(maps, kernel, form), (maps, kernel)


def _halve_backward(form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    on_cpu = functools.partial(_pulled_back, _halved_by_phases)
    native = functools.partial(_pulled_back, _halved_native)
    return choose_form(form, on_cpu, native, *saved, gradient)


def _pulled_back(function: Callable[..., Array], maps: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(function, maps, kernel)[1](gradient)


convolve_and_halve.defvjp(_halve_forward, _halve_backward)


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
    pairwise = maps.reshape(batch, seen // 2, 2 * channels)
    return convolve(pairwise, kernel.reshape(pairs, 2 * channels, features), "cpu")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_same(
    maps: Float[Array, "batch time in_channel"],
    kernel: Float[Array, "kernel in_channel out_channel"],
    dilation: int = 1,
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch time out_channel"]:
    """Convolves along time, with zeros around that keep the length.

    Args:
        maps: Of any length.
        kernel: Of an odd number of taps.
        dilation: Distance of its taps.
        form: How it is computed.
    """
    return choose_form(form, *_same_forms(kernel, dilation), maps, kernel)


def _same_forms(kernel: Array, dilation: int) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Returns what computes it on CPUs, and what does elsewhere."""
    channels, features = kernel.shape[1:]
    native = functools.partial(_same_native, dilation=dilation)
    return functools.partial(_same_in_one_product, dilation=dilation) if 8 * features <= channels else native, native


def _same_forward(
    maps: Array, kernel: Array, dilation: int, form: ConvolutionForm
) -> tuple[Array, tuple[Array, Array]]:
    return convolve_same(maps, kernel, dilation, form), (maps, kernel)


def _same_backward(
    dilation: int, form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    on_cpu, native = (functools.partial(_pulled_back, each) for each in _same_forms(saved[1], dilation))
    return choose_form(form, on_cpu, native, *saved, gradient)


convolve_same.defvjp(_same_forward, _same_backward)


def _same_native(maps: Array, kernel: Array, dilation: int) -> Array:
    around = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        maps, kernel, (1,), [(around, around)], rhs_dilation=(dilation,), dimension_numbers=_DIMENSIONS
    )


def _same_in_one_product(maps: Array, kernel: Array, dilation: int) -> Array:
    """Multiplies with all taps at once, and adds up the products where they belong.

    For few output channels, which XLA's own does not go well with: from 48 to 6 channels in 0.35 of its time on two
    cores (with derivatives 0.33), from 96 to 12 in 0.7, from 384 to 48 in 0.9; from 48 to 12 in 1.1. A product for each
    tap, and one product of all that they see, take longer than XLA's own.
    """
    batch, length, channels = maps.shape
    size, _, features = kernel.shape
    products = maps.reshape(-1, channels) @ kernel.swapaxes(0, 1).reshape(channels, -1)
    products = products.reshape(batch, length, size, features)
    around = dilation * (size // 2)
    padded = jnp.pad(products, ((0, 0), (around, around), (0, 0), (0, 0)))
    taps = (padded[:, k * dilation : k * dilation + length, k] for k in range(size))
    return functools.reduce(jnp.add, taps)
