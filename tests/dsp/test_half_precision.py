"""Half precision goes into transforms and masks as the values that it stands for; audio without channels does not."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.dsp import STFTConfig, analyse, apply_masks, direct_masks, ratio_masks, stft

HALF = [jnp.float16, jnp.bfloat16]
TRANSFORMS = [STFTConfig(n_fft=64, hop_length=16), STFTConfig(n_fft=64, hop_length=24, convention="torch")]


def rounded(shape, dtype, seed=0):
    """Random numbers in half precision, and the same numbers in float32."""
    values = jnp.asarray(np.random.default_rng(seed).uniform(-0.9, 0.9, shape), dtype)
    return values, values.astype(jnp.float32)


def assert_same(found, expected):
    """Finite, in single precision, and equal bit for bit: the same computation on the same values."""
    assert found.dtype == expected.dtype
    assert found.dtype in (np.float32, np.complex64)
    assert np.isfinite(found).all()
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("config", TRANSFORMS, ids=["spleeter", "torch"])
@pytest.mark.parametrize("transform", [stft, analyse])
def test_transforms_of_half_precision_are_those_of_the_same_values_in_float32(transform, config, dtype):
    half, single = rounded((2, 500, 2), dtype)
    assert_same(transform(half, config), transform(single, config))


@pytest.mark.parametrize("dtype", HALF)
def test_transforms_of_half_precision_are_near_those_of_numpy_in_float64(dtype):
    config = STFTConfig(n_fft=64, hop_length=16)
    half, single = rounded((64 + 3 * 16, 1), dtype)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    samples = np.asarray(single, np.float64)[:, 0]
    expected = np.stack([np.fft.rfft(samples[start : start + 64] * window) for start in range(0, 49, 16)])
    # Float32's error of a transform of 64 samples below 1; half precision would be off by 1e-3 and more.
    np.testing.assert_allclose(analyse(half, config)[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_ratio_masks_of_half_precision_are_those_of_the_same_values_in_float32(exponent, dtype):
    half, single = (jnp.abs(values) for values in rounded((3, 5, 7, 2), dtype))
    assert_same(ratio_masks(half, exponent=exponent), ratio_masks(single, exponent=exponent))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("sharpening", [1.0, 1.5])
def test_direct_masks_of_half_precision_are_those_of_the_same_values_in_float32(sharpening, dtype):
    half, single = (jnp.abs(values) for values in rounded((3, 5, 7, 2), dtype))
    mixture = jnp.abs(rounded((5, 7, 2), dtype, seed=1)[0])
    expected = direct_masks(single, mixture.astype(jnp.float32), sharpening=sharpening)
    assert_same(direct_masks(half, mixture, sharpening=sharpening), expected)
    # Either argument may be the one in half precision.
    assert_same(direct_masks(half, mixture.astype(jnp.float32), sharpening=sharpening), expected)
    assert_same(direct_masks(single, mixture, sharpening=sharpening), expected)


@pytest.mark.parametrize("dtype", HALF)
def test_masks_of_half_precision_are_applied_as_the_same_values_in_float32(dtype):
    half, single = rounded((3, 5, 7, 2), dtype)
    mixture = jnp.asarray(np.random.default_rng(1).standard_normal((5, 7, 2, 2)), jnp.float32)
    mixture = jax.lax.complex(mixture[..., 0], mixture[..., 1])
    assert_same(apply_masks(half, mixture), apply_masks(single, mixture))


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_masks_of_magnitudes_near_the_smallest_of_float16_are_those_of_float64_numpy(exponent):
    """In float16 both `eps` and the squares of such magnitudes are zero, and their masks not a number."""
    # Multiples of float16's smallest number, 6e-8; among them silence.
    values = jnp.asarray(np.arange(24).reshape(3, 2, 2, 2) * 2.0**-24, jnp.float16)
    values = values.at[:, 0, 0, 0].set(0)
    powers = np.asarray(values, np.float64) ** exponent
    expected = (powers + 1e-10 / 3) / (powers.sum(axis=0) + 1e-10)
    masks = ratio_masks(values, exponent=exponent)
    np.testing.assert_allclose(masks, expected, rtol=2e-6)
    np.testing.assert_allclose(masks[:, 0, 0, 0], 1 / 3, rtol=1e-6)


def test_direct_masks_of_magnitudes_near_the_smallest_of_float16_are_their_quotients():
    values = jnp.asarray(np.arange(24).reshape(3, 2, 2, 2) * 2.0**-24, jnp.float16)
    mixture = jnp.asarray(np.arange(8).reshape(2, 2, 2) * 2.0**-24, jnp.float16)
    quotients = np.arange(24).reshape(3, 2, 2, 2) / np.maximum(np.arange(8).reshape(2, 2, 2), 1)
    # The first bin of the mixture is silent, and has no phase to take.
    quotients[:, 0, 0, 0] = 0
    np.testing.assert_allclose(direct_masks(values, mixture), quotients, rtol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_half_precision_come_back_in_it_and_finite(dtype):
    half, _ = rounded((300, 2), dtype)
    gradient = jax.grad(lambda audio: jnp.abs(stft(audio, TRANSFORMS[0])).sum())(half)
    assert gradient.dtype == dtype
    assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_audio_without_a_channel_axis_is_refused_in_a_sentence_where_nobody_checks_annotations():
    """In a process of its own: here beartype would be first to refuse it."""
    code = (
        "import jax.numpy as jnp\n"
        "from jaxsep.dsp import STFTConfig, analyse, stft\n"
        "from jaxsep.errors import ConfigError\n"
        "for transform in (stft, analyse):\n"
        "    try: transform(jnp.zeros(500), STFTConfig(n_fft=64, hop_length=16))\n"
        "    except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sentence = "The audio has the shape (500,), and needs axes (time, channel); add one by audio[:, None].\n"
    assert done.stdout == 2 * sentence
