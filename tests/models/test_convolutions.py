"""Every form of every convolution against numpy and XLA's own, with derivatives, and what gets exported."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxsep.models import convolutions
from jaxsep.models.convolutions import down, kernel_gradient, mask_convolution, up

# The forms add the same products in another order, and Winograd's also adds and subtracts them first: with thousands of
# products in float32 that measures 1e-6 of the largest value.
FORMS_AGREE = 1e-5

# (large-map channels, small-map channels, batch, small-map height, width): one for every branch of the choice by shape.
SHAPES = {
    "stereo input": (2, 16, 2, 16, 24),
    "mono output": (1, 32, 2, 12, 8),
    "sub-pixel": (16, 64, 2, 8, 12),
    "row phases": (32, 128, 1, 8, 6),
    "overlap-add": (128, 64, 1, 4, 8),
    "Winograd": (128, 8, 2, 32, 32),
    "odd maps, no tiles": (128, 8, 2, 33, 33),
    "one pixel": (64, 128, 1, 1, 1),
}


def relative_error(ours, oracle):
    ours, oracle = np.asarray(ours, np.float64), np.asarray(oracle, np.float64)
    assert ours.shape == oracle.shape
    return np.abs(ours - oracle).max() / np.abs(oracle).max()


@functools.cache
def operands(a, b, batch, height, width, seed=0):
    rng = np.random.default_rng(seed)
    large = rng.standard_normal((batch, 2 * height, 2 * width, a), np.float32)
    small = rng.standard_normal((batch, height, width, b), np.float32)
    kernel = rng.standard_normal((5, 5, a, b), np.float32)
    return jnp.asarray(large), jnp.asarray(small), jnp.asarray(kernel)


def down_by_definition(large, kernel):
    """b[i, j] = sum over y, x of a[2i + y - 1, 2j + x - 1] kernel[y, x], in float64."""
    large, kernel = np.asarray(large, np.float64), np.asarray(kernel, np.float64)
    size = kernel.shape[0]
    before, after = (size - 2) // 2, (size - 1) // 2
    height, width = large.shape[1] // 2, large.shape[2] // 2
    padded = np.pad(large, ((0, 0), (before, after), (before, after), (0, 0)))
    taps = [
        padded[:, y : y + 2 * height : 2, x : x + 2 * width : 2] @ kernel[y, x]
        for y in range(size)
        for x in range(kernel.shape[1])
    ]
    return np.sum(taps, axis=0)


@pytest.mark.parametrize("form", ["native", "auto"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_down_matches_its_definition_in_float64(shape, form):
    large, _, kernel = operands(*shape)
    assert (
        relative_error(jax.jit(down, static_argnums=2)(large, kernel, form), down_by_definition(large, kernel))
        < FORMS_AGREE
    )


@pytest.mark.parametrize("form", ["native", "auto"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_up_is_the_transpose_of_the_definition(shape, form):
    """Scattering every product to where `down` would have read it, in float64."""
    _, small, kernel = operands(*shape)
    batch, height, width, _ = small.shape
    scattered = np.zeros((batch, 2 * height + 3, 2 * width + 3, kernel.shape[2]))
    for y in range(5):
        for x in range(5):
            product = np.asarray(small, np.float64) @ np.asarray(kernel[y, x], np.float64).T
            scattered[:, y : y + 2 * height : 2, x : x + 2 * width : 2] += product
    expected = scattered[:, 1 : 1 + 2 * height, 1 : 1 + 2 * width]
    assert relative_error(jax.jit(up, static_argnums=2)(small, kernel, form), expected) < FORMS_AGREE


@pytest.mark.parametrize("form", ["native", "auto"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_kernel_gradient_correlates_the_maps(shape, form):
    large, small, _ = operands(*shape)
    _, height, width, _ = small.shape
    padded = np.pad(np.asarray(large, np.float64), ((0, 0), (1, 2), (1, 2), (0, 0)))
    expected = np.empty((5, 5, large.shape[-1], small.shape[-1]))
    for y in range(5):
        for x in range(5):
            seen = padded[:, y : y + 2 * height : 2, x : x + 2 * width : 2]
            expected[y, x] = seen.reshape(-1, seen.shape[-1]).T @ np.asarray(small, np.float64).reshape(
                -1, small.shape[-1]
            )
    ours = jax.jit(kernel_gradient, static_argnums=(2, 3))(large, small, (5, 5), form)
    assert relative_error(ours, expected) < FORMS_AGREE


ALTERNATIVES = [
    ("_down_folded", "_down_native", (2, 16, 2, 8, 12)),
    ("_down_winograd", "_down_native", (64, 32, 2, 8, 12)),
    ("_down_as_product", "_down_native", (8, 16, 2, 7, 12)),
    ("_up_subpixel", "_up_native", (2, 16, 2, 7, 12)),
    ("_up_row_phases", "_up_native", (8, 16, 2, 7, 12)),
    ("_up_overlap_add", "_up_native", (8, 16, 2, 7, 12)),
    ("_up_winograd", "_up_native", (8, 16, 2, 6, 12)),
]


@pytest.mark.parametrize(("form", "native", "shape"), ALTERNATIVES, ids=[name for name, *_ in ALTERNATIVES])
def test_every_form_matches_xla_native_also_where_it_is_not_chosen(form, native, shape):
    large, small, kernel = operands(*shape)
    maps = large if form.startswith("_down") else small
    ours, oracle = (jax.jit(getattr(convolutions, name))(maps, kernel) for name in (form, native))
    assert relative_error(ours, oracle) < FORMS_AGREE


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_first_and_second_derivatives_match_jax_automatic_ones(shape):
    """The oracle is automatic differentiation of the native convolution, which no `custom_vjp` is near."""
    large, small, kernel = operands(*shape)
    upwards = large[::-1, ::-1]

    def oracle(large, kernel):
        return jax.lax.conv_general_dilated(
            large, kernel, (2, 2), ((1, 2), (1, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def derivatives(convolve, transpose):
        @jax.jit  # of arguments: XLA would compute at length beforehand what is made of constants
        def compute(large, small, kernel, upwards):
            def by_kernel_of_by_large(kernel):  # how the maps' gradient, along `upwards`, changes with the kernel
                return jnp.vdot(jax.vjp(convolve, large, kernel)[1](small)[0], upwards)

            return (
                *jax.vjp(convolve, large, kernel)[1](small),
                *jax.vjp(transpose, small, kernel)[1](large),
                jax.grad(by_kernel_of_by_large)(kernel),
            )

        return compute(large, small, kernel, upwards)

    def transposed_oracle(small, kernel):
        return jax.vjp(lambda large: oracle(large, kernel), jnp.zeros_like(large))[1](small)[0]

    for ours, theirs in zip(derivatives(down, up), derivatives(oracle, transposed_oracle), strict=True):
        assert relative_error(ours, theirs) < FORMS_AGREE


def test_kernel_gradient_is_itself_differentiable():
    large, small, kernel = operands(2, 16, 2, 16, 24)
    by_large, by_small = jax.vjp(kernel_gradient, large, small)[1](kernel)
    # It is linear in each, so its derivatives are the two convolutions.
    assert relative_error(by_large, up(small, kernel, "native")) < FORMS_AGREE
    assert relative_error(by_small, down(large, kernel, "native")) < FORMS_AGREE


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mask_convolution_matches_its_definition_and_its_derivatives_jax_own(channels):
    rng = np.random.default_rng(1)
    maps = rng.standard_normal((2, 10, 7, 1), np.float32)
    kernel = rng.standard_normal((4, 4, 1, channels), np.float32)
    gradient = rng.standard_normal((2, 10, 7, channels), np.float32)
    padded = np.pad(maps.astype(np.float64), ((0, 0), (3, 3), (3, 3), (0, 0)))
    expected = np.zeros((2, 10, 7, channels))
    for i in range(4):
        for j in range(4):
            expected += padded[:, 2 * i : 2 * i + 10, 2 * j : 2 * j + 7] * kernel[i, j, 0]

    def oracle(maps, kernel):
        return jax.lax.conv_general_dilated(
            maps, kernel, (1, 1), ((3, 3), (3, 3)), rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    maps, kernel = jnp.asarray(maps), jnp.asarray(kernel)
    expected_gradients = jax.vjp(oracle, maps, kernel)[1](jnp.asarray(gradient))
    for form in ("native", "cpu", "auto"):
        output, pull_back = jax.vjp(functools.partial(mask_convolution, form=form), maps, kernel)
        assert relative_error(output, expected) < FORMS_AGREE
        for ours, theirs in zip(pull_back(jnp.asarray(gradient)), expected_gradients, strict=True):
            assert relative_error(ours, theirs) < FORMS_AGREE


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_other_kernel_sizes_match_the_definition(size):
    rng = np.random.default_rng(2)
    large = jnp.asarray(rng.standard_normal((2, 12, 16, 2), np.float32))
    kernel = jnp.asarray(rng.standard_normal((size, size, 2, 3), np.float32))
    output, pull_back = jax.vjp(down, large, kernel)
    assert relative_error(output, down_by_definition(large, kernel)) < FORMS_AGREE
    # <down(a, w), b> is one number however it is taken apart. Double sums of a few thousand float32 products: 1e-6.
    small = jnp.asarray(rng.standard_normal(output.shape, np.float32))
    value = float(jnp.vdot(output, small))
    by_large, by_kernel = pull_back(small)
    assert float(jnp.vdot(by_large, large)) == pytest.approx(value, rel=1e-4)
    assert float(jnp.vdot(by_kernel, kernel)) == pytest.approx(value, rel=1e-4)
    assert relative_error(up(small, kernel), by_large) == 0


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
@pytest.mark.parametrize(
    ("values", "most", "expected"),
    [
        (48, 32, (1, 4)),  # rows of an example of 84 values each
        (200, 32, (2, 7)),  # whole examples
        (1, 20, (1, 2)),  # one row at a time, but for the limit
        (1, 2, (3, 7)),  # the same with more examples than pieces
    ],
)
def test_kernel_gradient_adds_up_over_pieces(size, values, most, expected, monkeypatch):
    """Of five examples, where the last piece is smaller; the first and last rows see zeros beyond."""
    monkeypatch.setattr(convolutions, "_PIECE", values)
    monkeypatch.setattr(convolutions, "_MOST_PIECES", most)
    rng = np.random.default_rng(0)
    large = jnp.asarray(rng.standard_normal((5, 14, 8, 3)), jnp.float32)
    small = jnp.asarray(rng.standard_normal((5, 7, 4, 3)), jnp.float32)
    pieces, native = [], convolutions._kernel_gradient_native

    def counted(large, small, *rest):
        pieces.append(small.shape[:2])
        return native(large, small, *rest)

    monkeypatch.setattr(convolutions, "_kernel_gradient_native", counted)
    found = convolutions._kernel_gradient_in_pieces(large, small, (size, size))
    assert pieces[0] == expected
    assert sum(examples * rows for examples, rows in pieces) == 5 * 7
    assert relative_error(found, native(large, small, (size, size))) < FORMS_AGREE


@pytest.mark.parametrize("form", ["native", "auto"])
def test_mapped_over_maps_and_kernels_equals_a_loop(form):
    shape = SHAPES["stereo input"]
    first, second = operands(*shape), operands(*shape, seed=1)
    large, small, kernel = (jnp.stack(pair) for pair in zip(first, second, strict=True))

    def everything(large, small, kernel):
        return (
            *jax.vjp(functools.partial(down, form=form), large, kernel)[1](small),
            *jax.vjp(functools.partial(up, form=form), small, kernel)[1](large),
            down(large, kernel, form),
            up(small, kernel, form),
        )

    mapped = jax.jit(jax.vmap(everything))(large, small, kernel)
    for i, one in enumerate((first, second)):
        for ours, theirs in zip(mapped, jax.jit(everything)(*one), strict=True):
            assert relative_error(ours[i], theirs) < FORMS_AGREE


def test_narrow_types_are_computed_natively_and_stay_narrow():
    large, small, kernel = (x.astype(jnp.bfloat16) for x in operands(*SHAPES["overlap-add"]))
    assert down(large, kernel).dtype == up(small, kernel).dtype == jnp.bfloat16
    np.testing.assert_array_equal(up(small, kernel, "cpu"), up(small, kernel, "native"))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_exported_for_accelerators_equals_the_native_program(shape, platform):
    large, small, kernel = operands(*shape)

    def program(form):
        def values(large, small, kernel):
            return (
                *jax.vjp(functools.partial(down, form=form), large, kernel)[1](small),
                *jax.vjp(functools.partial(up, form=form), small, kernel)[1](large),
            )

        return str(export.export(jax.jit(values), platforms=[platform])(large, small, kernel).mlir_module())

    def operations(text):  # all but the choice itself, a constant index into one branch
        found = re.findall(r"stablehlo\.(\w+)", text)
        return collections.Counter(name for name in found if name not in ("case", "return", "constant"))

    assert operations(program("auto")) == operations(program("native"))
    assert operations(program("cpu")) != operations(program("native"))
