"""The U-Nets' convolutions and their derivatives, each in the form that is fastest for its shape and platform.

What a layer adds to them (parameters, bias) is in `layers.py`; how they compare with PyTorch, in `jaxsep.compare`.

The 5x5 convolution of stride 2, its transpose and their kernel gradients are one trilinear form in a large map
(2H x 2W, `a` channels), a small map (H x W, `b` channels) and a kernel (5, 5, a, b): given two of the three, `down`,
`up` and `kernel_gradient` give the third, and the derivative of each is made of the other two. So one choice of form by
shape serves inference and training, encoder and decoder. Automatic derivatives would be dilated convolutions instead,
several times slower on CPUs.

Times beside the forms are for two cores of a server CPU (AVX-512 if nothing else is said, jax 0.10, float32), at the
shapes of the Spleeter U-Net; the ratios matter, not the milliseconds. CPU time was looked at beside wall time: a form
that keeps one core busy loses nothing where two sources are computed side by side.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# 'auto': the fast forms where the program is compiled for a CPU, XLA's own convolutions elsewhere. Accelerators are
# fast at those, and a program exported for them must not hold forms made for CPUs, so the choice is made as it is
# lowered and never by asking which backend this process runs on.
ConvolutionForm = Literal["auto", "native", "cpu"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def down(
    large: Float[Array, "batch large_height large_width a"],
    kernel: Float[Array, "kernel_height kernel_width a b"],
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch height width b"]:
    """Convolves with stride 2 and TensorFlow's 'same' padding: for a kernel of 5, one before and two after.

    Args:
        large: Maps of even height and width.
        kernel: Its last axes are the channels of the large and of the small map.
        form: How it is computed.

    Returns:
        Maps of half the height and width.
    """
    return choose_form(form, _down_on_cpu, _down_native, large, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def up(
    small: Float[Array, "batch height width b"],
    kernel: Float[Array, "kernel_height kernel_width a b"],
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch large_height large_width a"]:
    """Applies the transpose of `down` with the same kernel: Keras's `Conv2DTranspose`, stride 2, padding 'same'.

    Args:
        small: Maps of any size.
        kernel: As `down` takes it, which is also how TensorFlow stores the kernel of a transposed convolution.
        form: How it is computed.

    Returns:
        Maps of twice the height and width.
    """
    return choose_form(form, _up_on_cpu, _up_native, small, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def kernel_gradient(
    large: Float[Array, "batch large_height large_width a"],
    small: Float[Array, "batch height width b"],
    size: tuple[int, int] = (5, 5),
    form: ConvolutionForm = "auto",
) -> Float[Array, "kernel_height kernel_width a b"]:
    """Returns the gradient of `sum(small * down(large, kernel))`, or `sum(large * up(small, kernel))`, by the kernel.

    Args:
        large: Maps of twice the height and width of the small ones.
        small: Maps.
        size: Height and width of the kernel.
        form: How it is computed.
    """
    on_cpu = functools.partial(_kernel_gradient_on_cpu, size=size)
    native = functools.partial(_kernel_gradient_native, size=size)
    return choose_form(form, on_cpu, native, large, small)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def mask_convolution(
    maps: Float[Array, "batch height width 1"], kernel: Float[Array, "4 4 1 channel"], form: ConvolutionForm = "auto"
) -> Float[Array, "batch height width channel"]:
    """Convolves a single channel with a 4x4 kernel of dilation 2, three zeros on every side: the size stays.

    Args:
        maps: Maps of any size.
        kernel: One input channel, a few output channels.
        form: How it is computed.
    """
    return choose_form(form, _mask_stencil, _mask_native, maps, kernel)


def same(
    maps: Float[Array, "batch height width in_channel"],
    kernel: Float[Array, "kernel_height kernel_width in_channel out_channel"],
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch height width out_channel"]:
    """Convolves with stride 1 and as many zeros around as keep the size, an odd one at the end.

    Args:
        maps: Maps of any size.
        kernel: Of any size.
        form: As the others take it. There is one: XLA's own is near the peak of matrix products on CPUs too, but for
            the kernel's gradient, which there takes several times as long.
    """
    return jax.lax.conv_general_dilated(maps, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


def choose_form(form: ConvolutionForm, on_cpu: Callable[..., Any], native: Callable[..., Any], *operands: Array) -> Any:
    """Applies one of two functions to the operands, as the form asks for, or by the platform that is compiled for."""
    # The forms were chosen in float32. Narrower types would round each partial sum, where one convolution rounds once.
    if form == "native" or any(operand.dtype != jnp.float32 for operand in operands):
        return native(*operands)
    if form == "cpu":
        return on_cpu(*operands)
    return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=native)


# --- Derivatives: each is one of the other primitives.


def _down_forward(large: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, Array]]:
    return down(large, kernel, form), (large, kernel)


def _down_backward(form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    large, kernel = saved
    return up(gradient, kernel, form), kernel_gradient(large, gradient, kernel.shape[:2], form)


def _up_forward(small: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, Array]]:
    return up(small, kernel, form), (small, kernel)


def _up_backward(form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    small, kernel = saved
    return down(gradient, kernel, form), kernel_gradient(gradient, small, kernel.shape[:2], form)


def _kernel_gradient_forward(
    large: Array, small: Array, size: tuple[int, int], form: ConvolutionForm
) -> tuple[Array, tuple[Array, Array]]:
    return kernel_gradient(large, small, size, form), (large, small)


def _kernel_gradient_backward(
    size: tuple[int, int], form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    large, small = saved
    return up(small, gradient, form), down(large, gradient, form)


def _mask_forward(maps: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, Array]]:
    return mask_convolution(maps, kernel, form), (maps, kernel)


def _mask_backward(form: ConvolutionForm, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    maps, kernel = saved
    by_maps = choose_form(form, _mask_stencil_transposed, _mask_native_transposed, gradient, kernel)
    # The native kernel gradient is as fast as the memory, so there is one form of it.
    (by_kernel,) = jax.vjp(functools.partial(_mask_native, maps), kernel)[1](gradient)
    return by_maps, by_kernel


down.defvjp(_down_forward, _down_backward)
up.defvjp(_up_forward, _up_backward)
kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)
mask_convolution.defvjp(_mask_forward, _mask_backward)


# --- Which form, by shape.

# Small-map pixels from which Winograd's form pays: with fewer, transforming the kernel takes as long as the
# multiplications that it saves, or (from 512 on, AVX2) a song of three minutes saves what loading a larger program from
# the compilation cache costs. It also takes XLA about a second to compile, each time that a network uses it.
_WINOGRAD_PIXELS = 2048

# Small-map pixels up to which reading the kernel is most of a convolution of many channels.
_FEW_PIXELS = 256

# Values of the small map in one piece of a kernel's gradient: the megabyte that the caches of two cores hold.
_PIECE = 2**18
# With more pieces than that, the program would take long to compile.
_MOST_PIECES = 32


def _down_on_cpu(large: Array, kernel: Array) -> Array:
    if kernel.shape[:2] != (5, 5):
        return _down_native(large, kernel)
    batch, height, width, a = large.shape
    if a == 2:
        return _down_folded(large, kernel)
    pixels = batch * height * width // 4
    if a >= 128 and pixels <= _FEW_PIXELS:
        return _down_as_product(large, kernel)
    if a >= 128 and pixels >= _WINOGRAD_PIXELS and height % 4 == 0 and width % 4 == 0:
        return _down_winograd(large, kernel)
    return _down_native(large, kernel)


def _up_on_cpu(small: Array, kernel: Array) -> Array:
    if kernel.shape[:2] != (5, 5):
        return _up_native(small, kernel)
    batch, height, width, _ = small.shape
    a = kernel.shape[2]
    if a <= 16:
        return _up_subpixel(small, kernel)
    pixels = batch * height * width
    if a >= 32 and pixels >= _WINOGRAD_PIXELS and height % 2 == 0 and width % 2 == 0:
        return _up_winograd(small, kernel)
    if a >= 128:
        return _up_overlap_add(small, kernel)
    return _up_row_phases(small, kernel)


def _kernel_gradient_on_cpu(large: Array, small: Array, size: tuple[int, int]) -> Array:
    if size == (5, 5) and large.shape[-1] <= 2:
        return _kernel_gradient_by_planes(large, small)
    return _kernel_gradient_in_pieces(large, small, size)


# --- XLA's own convolutions.


def _same_padding(size: int) -> tuple[int, int]:
    # TensorFlow's rule for stride 2 on an even length: size - 2 zeros, the odd one at the end.
    return (size - 2) // 2, (size - 1) // 2


def _convolve(maps: Array, kernel: Array, padding: Sequence[tuple[int, int]] = ((1, 1), (1, 1))) -> Array:
    return jax.lax.conv_general_dilated(maps, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def _down_native(large: Array, kernel: Array, padding: Sequence[tuple[int, int]] | None = None) -> Array:
    padding = padding or [_same_padding(size) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(large, kernel, (2, 2), padding, dimension_numbers=_DIMENSIONS)


def _up_native(small: Array, kernel: Array) -> Array:
    padding = [
        (size - 1 - before, size - 1 - after) for size in kernel.shape[:2] for before, after in [_same_padding(size)]
    ]
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return jax.lax.conv_general_dilated(
        small, flipped, (1, 1), padding, lhs_dilation=(2, 2), dimension_numbers=_DIMENSIONS
    )


def _kernel_gradient_native(
    large: Array, small: Array, size: tuple[int, int], padding: Sequence[tuple[int, int]] | None = None
) -> Array:
    kernel = jnp.zeros((*size, large.shape[-1], small.shape[-1]), large.dtype)
    return jax.vjp(functools.partial(_down_native, large, padding=padding), kernel)[1](small)[0]


def _mask_native(maps: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        maps, kernel, (1, 1), ((3, 3), (3, 3)), rhs_dilation=(2, 2), dimension_numbers=_DIMENSIONS
    )


def _mask_native_transposed(gradient: Array, kernel: Array) -> Array:
    return _mask_native(gradient, kernel[::-1, ::-1].transpose(0, 1, 3, 2))


def _add(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


# --- Few channels.


def _down_folded(large: Array, kernel: Array) -> Array:
    """Folds each 2x2 block of pixels into the channels and convolves with stride 1 and a 3x3 kernel.

    For the stereo input: two channels leave the vector units idle, eight do not.
    """
    batch, height, width, a = large.shape
    blocks = large.reshape(batch, height // 2, 2, width // 2, 2, a).transpose(0, 1, 3, 2, 4, 5)
    # The five taps start at the second pixel of a block: one zero in front makes three whole blocks.
    taps = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(3, 2, 3, 2, a, -1).transpose(0, 2, 1, 3, 4, 5)
    return _convolve(blocks.reshape(batch, height // 2, width // 2, 4 * a), taps.reshape(3, 3, 4 * a, -1))


# The taps that make an even and an odd output position of `up`, in the order of the small map's positions that they
# meet: the one before, the same, the one after. The even position has no third.
_UP_TAPS = ((3, 1, None), (4, 2, 0))
# Those that an even and an odd input position of `down` meet, seen from the output's.
_DOWN_TAPS = ((None, 1, 3), (0, 2, 4))


def _subpixel_kernel(kernel: Array) -> Array:
    """Returns the 3x3 kernel that gives all four output phases: (3, 3, b, row phase, column phase, a)."""

    def phases(taps: Array) -> Array:  # (5, ...) -> (3, phase, ...)
        none = jnp.zeros_like(taps[0])
        pick = [[none if tap is None else taps[tap] for tap in order] for order in _UP_TAPS]
        return jnp.stack([jnp.stack(phase) for phase in pick], axis=1)

    by_rows = jnp.moveaxis(phases(kernel), 2, 0)  # 5 columns, 3, row phase, a, b
    return phases(by_rows).transpose(2, 0, 5, 3, 1, 4)


def _up_subpixel(small: Array, kernel: Array) -> Array:
    """Convolves once with stride 1 to four times the channels, one set for each output phase, and unfolds them.

    36/25 of the work, at full speed: at 16 channels 4 times as fast as the native form, at one channel twice.
    """
    batch, height, width, b = small.shape
    a = kernel.shape[2]
    phases = _convolve(small, _subpixel_kernel(kernel).reshape(3, 3, b, 4 * a))
    unfolded = phases.reshape(batch, height, width, 2, 2, a).transpose(0, 1, 3, 2, 4, 5)
    return unfolded.reshape(batch, 2 * height, 2 * width, a)


def _kernel_gradient_in_pieces(large: Array, small: Array, size: tuple[int, int]) -> Array:
    """Adds up XLA's own for pieces of the maps that caches hold: some examples, or some rows of one example.

    On two cores with AVX2, of 16 and 64 channels at 128 x 256: 37 instead of 150 ms for one example, 75 instead of 500
    for two; of the other layers 0 to 45 % less for two examples, and no less for one.
    """
    batch, height, width, features = small.shape
    example = height * width * features
    examples = max(_PIECE // example, -(-batch // _MOST_PIECES), 1)
    rows = -(-height // min(-(-example // _PIECE), max(_MOST_PIECES // batch, 1)))
    above, below = _same_padding(size[0])
    pieces = []
    for i, start in itertools.product(range(0, batch, examples), range(0, height, rows)):
        stop = min(start + rows, height)
        # The rows of the large map that these of the small one see, some of them beyond its ends.
        first, last = 2 * start - above, 2 * stop + below
        padding = [(max(-first, 0), max(last - 2 * height, 0)), _same_padding(size[1])]
        seen = large[i : i + examples, max(first, 0) : last]
        pieces.append(_kernel_gradient_native(seen, small[i : i + examples, start:stop], size, padding))
    return _add(pieces)


def _kernel_gradient_by_planes(large: Array, small: Array) -> Array:
    """Stacks the 25 shifted planes of the large map and contracts them with the small map, a few rows at a time.

    For one or two channels: 5 times as fast as the native form. A few rows keep the stack in the cache.
    """
    batch, height, width, b = small.shape
    a = large.shape[-1]
    rows = math.gcd(height, 8)
    padded = jnp.pad(jnp.moveaxis(large, -1, 0), ((0, 0), (0, 0), (1, 3), (1, 3)))
    # Row parity, column parity, batch, row, channel, column: columns last, where a shift is a slice.
    split = padded.reshape(a, batch, height + 2, 2, width + 2, 2).transpose(3, 5, 1, 2, 0, 4)

    def add_rows(total: Array, step: Array) -> tuple[Array, None]:
        image, row = step // (height // rows), (step % (height // rows)) * rows
        sizes = (2, 2, 1, rows + 2, a, width + 2)
        part = jax.lax.dynamic_slice(split, (0, 0, image, row, 0, 0), sizes)[:, :, 0]
        planes = jnp.stack(
            [part[y % 2, x % 2, y // 2 : y // 2 + rows, :, x // 2 : x // 2 + width] for y in range(5) for x in range(5)]
        )
        block = jax.lax.dynamic_slice(small, (image, row, 0, 0), (1, rows, width, b))[0]
        return total + jnp.einsum("krcw,rwo->kco", planes, block), None

    total, _ = jax.lax.scan(add_rows, jnp.zeros((25, a, b), large.dtype), jnp.arange(batch * height // rows))
    return total.reshape(5, 5, a, b)


def _mask_stencil(maps: Array, kernel: Array) -> Array:
    """Adds up sixteen shifted copies, which XLA fuses into one loop: 40 times as fast as the dilated convolution."""
    _, height, width, _ = maps.shape
    padded = jnp.pad(maps, ((0, 0), (3, 3), (3, 3), (0, 0)))
    taps = kernel.reshape(4, 4, 1, 1, 1, -1)
    places = itertools.product(range(4), repeat=2)
    return _add(padded[:, 2 * i : 2 * i + height, 2 * j : 2 * j + width] * taps[i, j] for i, j in places)


def _mask_stencil_transposed(gradient: Array, kernel: Array) -> Array:
    """The mirrored stencil, summed over channels: the automatic derivative of `_mask_stencil` is no single loop."""
    _, height, width, channels = gradient.shape
    padded = jnp.pad(gradient, ((0, 0), (3, 3), (3, 3), (0, 0)))
    return _add(
        padded[:, 6 - 2 * i : 6 - 2 * i + height, 6 - 2 * j : 6 - 2 * j + width, k : k + 1] * kernel[i, j, 0, k]
        for i, j, k in itertools.product(range(4), range(4), range(channels))
    )


# --- Many channels.


def _up_row_phases(small: Array, kernel: Array) -> Array:
    """Convolves once for the even output rows, with a 2x3 kernel, and once for the odd ones, with a 3x3 kernel.

    30/25 of the work instead of the sub-pixel form's 36/25: a fifth faster at 32 channels, and 2.5 times as fast as the
    native form.
    """
    batch, height, width, b = small.shape
    a = kernel.shape[2]
    taps = _subpixel_kernel(kernel).reshape(3, 3, b, 2, 2 * a)
    even = _convolve(small, taps[:2, :, :, 0], ((1, 0), (1, 1)))
    odd = _convolve(small, taps[:, :, :, 1])
    rows = [row.reshape(batch, height, 2 * width, a) for row in (even, odd)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, a)


def _down_as_product(large: Array, kernel: Array) -> Array:
    """Lays what the 25 taps see of each pixel side by side, and multiplies it with the whole kernel.

    For few pixels of many channels (the innermost encoder block): two thirds of the native form's time (AVX2).
    """
    batch, height, width, a = large.shape
    padded = jnp.pad(large, ((0, 0), (1, 2), (1, 2), (0, 0)))
    seen = [padded[:, y : y + height - 1 : 2, x : x + width - 1 : 2] for y in range(5) for x in range(5)]
    product = jnp.concatenate(seen, axis=-1).reshape(-1, 25 * a) @ kernel.reshape(25 * a, -1)
    return product.reshape(batch, height // 2, width // 2, -1)


def _up_overlap_add(small: Array, kernel: Array) -> Array:
    """Multiplies every pixel with the whole kernel, one matrix product, and adds the 25 products up where they belong.

    For few pixels of many channels (the innermost decoder blocks), where reading the kernel is much of the work: 1.5
    to 2 times as fast as the native form.
    """
    batch, height, width, b = small.shape
    a = kernel.shape[2]
    products = small.reshape(-1, b) @ kernel.reshape(25 * a, b).T
    products = products.reshape(batch, height, width, 5, 5, a)

    def shift(maps: Array, by: int, axis: int) -> Array:
        config = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(maps.ndim)]
        return jax.lax.pad(maps, jnp.zeros((), maps.dtype), config)

    def phases(taps: list[Array], axis: int) -> list[Array]:
        by = (1, 0, -1)
        return [
            _add(shift(taps[tap], by[i], axis) for i, tap in enumerate(order) if tap is not None) for order in _UP_TAPS
        ]

    rows = []
    for row in phases([products[:, :, :, tap] for tap in range(5)], 1):
        columns = phases([row[:, :, :, tap] for tap in range(5)], 2)
        rows.append(jnp.stack(columns, axis=3).reshape(batch, height, 2 * width, a))
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, a)


# Winograd's minimal filtering F(2, 3) (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016): two
# outputs of a three-tap filter from four inputs in four multiplications instead of six; a phase of two taps needs
# three. So a 5x5 kernel of stride 2 costs 49 multiplications for a 2x2 tile of the small map instead of 100. The next
# larger tile, F(4, 3), would cost 30, but its rounding error is twenty times as large, above 1e-5.
_WINOGRAD_INPUT = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
_WINOGRAD_KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_WINOGRAD_OUTPUT = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


def _combine(factors: Sequence[float], terms: Sequence[Array | None]) -> Array:
    """Returns the sum of factors times terms, of those that are there."""
    pairs = [(factor, term) for factor, term in zip(factors, terms, strict=True) if factor and term is not None]
    return _add(term if factor == 1 else factor * term for factor, term in pairs)


# What a plane of products is for: its row phase, column phase, row plane and column plane.
_Plane = tuple[int, int, int, int]


def _winograd_kernels(kernel: Array, taps: Sequence[Sequence[int | None]]) -> dict[tuple[int, int], Any]:
    """Returns {(row plane, column plane): (keys, kernels (key, a, b))}; planes that are always zero are absent.

    All of them are one matrix product: sums that are written out take XLA as long to compile as the rest of the form.
    """
    lines = {}
    for phase, order in enumerate(taps):
        for plane, factors in enumerate(_WINOGRAD_KERNEL):
            line = np.zeros(5, np.float32)
            for factor, tap in zip(factors, order, strict=True):
                if tap is not None:
                    line[tap] = factor
            if line.any():
                lines[phase, plane] = line
    planes: dict[tuple[int, int], list[_Plane]] = {}
    for (row_phase, u), (column_phase, v) in itertools.product(lines, repeat=2):
        planes.setdefault((u, v), []).append((row_phase, column_phase, u, v))
    matrix = np.stack([np.outer(lines[i, u], lines[j, v]).ravel() for keys in planes.values() for i, j, u, v in keys])
    kernels = (matrix @ kernel.reshape(25, -1)).reshape(-1, *kernel.shape[2:])
    ends = itertools.accumulate(len(keys) for keys in planes.values())
    return {
        place: (keys, kernels[end - len(keys) : end]) for (place, keys), end in zip(planes.items(), ends, strict=True)
    }


def _winograd_tiles(padded: Array, axis: int, start: int, step: int, tiles: int) -> list[Array]:
    """Returns the four input planes along an axis: a tile sees every `step`-th position and moves by two of them."""
    stop = 2 * step * (tiles - 1) + 1
    seen = [jax.lax.slice_in_dim(padded, start + i * step, start + i * step + stop, 2 * step, axis) for i in range(4)]
    return [_combine(row, seen) for row in _WINOGRAD_INPUT]


def _up_winograd(small: Array, kernel: Array) -> Array:
    """Winograd's form of `up`: 1.1 to 1.5 times as fast as the next best form from 64 channels on.

    With AVX2, 1.3 to 1.7 times from 32 channels on; of 16 it is no faster.
    """
    batch, height, width, b = small.shape
    a = kernel.shape[2]
    tiles = (batch, height // 2, width // 2)
    padded = jnp.pad(small, ((0, 0), (1, 1), (1, 1), (0, 0)))
    inputs = [_winograd_tiles(row, 2, 0, 1, tiles[2]) for row in _winograd_tiles(padded, 1, 0, 1, tiles[1])]
    products: dict[_Plane, Array] = {}
    for (u, v), (keys, kernels) in _winograd_kernels(kernel, _UP_TAPS).items():
        # One matrix product for all output phases that this plane has a part in.
        product = (inputs[u][v].reshape(-1, b) @ kernels.reshape(-1, b).T).reshape(*tiles, len(keys), a)
        products |= {key: product[..., i, :] for i, key in enumerate(keys)}

    rows = []
    for i, row_phase in ((i, phase) for i in range(2) for phase in range(2)):
        columns = []
        for j, column_phase in ((j, phase) for j in range(2) for phase in range(2)):
            planes = [
                _combine(_WINOGRAD_OUTPUT[i], [products.get((row_phase, column_phase, u, v)) for u in range(4)])
                if (row_phase, column_phase, 0, v) in products
                else None
                for v in range(4)
            ]
            columns.append(_combine(_WINOGRAD_OUTPUT[j], planes))
        rows.append(jnp.stack(columns, axis=3))
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, a)


def _down_winograd(large: Array, kernel: Array) -> Array:
    """Winograd's form of `down`: 1.3 to 1.6 times as fast as the native form from 128 channels on, slower below.

    The phases of the large map add up, so each plane is one matrix product over the channels of all of them.
    """
    batch, height, width, _ = large.shape
    b = kernel.shape[3]
    tiles = (batch, height // 4, width // 4)
    padded = jnp.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0)))
    inputs = {}
    for row_phase in range(2):
        for u, row in enumerate(_winograd_tiles(padded, 1, row_phase, 2, tiles[1])):
            for column_phase in range(2):
                for v, plane in enumerate(_winograd_tiles(row, 2, column_phase, 2, tiles[2])):
                    inputs[row_phase, column_phase, u, v] = plane
    products: dict[tuple[int, int], Array] = {}
    for place, (keys, kernels) in _winograd_kernels(kernel, _DOWN_TAPS).items():
        stacked = jnp.concatenate([inputs[key] for key in keys], axis=-1)
        products[place] = (stacked.reshape(-1, stacked.shape[-1]) @ kernels.reshape(-1, b)).reshape(*tiles, b)

    rows = []
    for i in range(2):
        planes = [_combine(_WINOGRAD_OUTPUT[i], [products[u, v] for u in range(4)]) for v in range(4)]
        rows.append(jnp.stack([_combine(_WINOGRAD_OUTPUT[j], planes) for j in range(2)], axis=3))
    return jnp.stack(rows, axis=2).reshape(batch, height // 2, width // 2, b)
