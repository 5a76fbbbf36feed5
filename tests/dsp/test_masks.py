"""Masks against float64 numpy written from Spleeter's formulas, and against what masks must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.dsp.masks import apply_masks, direct_masks, extend_masks, project_onto_mixture, ratio_masks, softmax_masks


def magnitudes(shape=(2, 3, 5, 7, 2), seed=0):
    return np.abs(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_ratio_masks_match_float64_numpy(exponent):
    values = magnitudes()
    powers = values.astype(np.float64) ** exponent
    expected = (powers + 1e-10 / 3) / (powers.sum(axis=1, keepdims=True) + 1e-10)
    masks = ratio_masks(jnp.asarray(values), exponent=exponent)
    # A power, a sum of three and a quotient: some ten float32 roundings.
    np.testing.assert_allclose(masks, expected, rtol=2e-6)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_ratio_masks_share_silence_equally_and_sum_to_one(exponent):
    values = magnitudes()
    values[:, :, 2] = 0
    masks = np.asarray(ratio_masks(jnp.asarray(values), exponent=exponent))
    np.testing.assert_allclose(masks.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(masks[:, :, 2], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_ratio_masks_have_finite_gradients_on_silence(exponent):
    gradient = jax.grad(lambda values: ratio_masks(values, exponent=exponent)[0].sum())(jnp.zeros((2, 3, 4, 1)))
    assert np.isfinite(gradient).all()


def test_direct_masks_give_the_estimated_magnitudes_the_mixtures_phase():
    rng = np.random.default_rng(3)
    mixture = (rng.standard_normal((5, 7, 2)) + 1j * rng.standard_normal((5, 7, 2))).astype(np.complex64)
    estimated = magnitudes((3, 5, 7, 2))
    masks = direct_masks(jnp.asarray(estimated), jnp.abs(jnp.asarray(mixture)))
    sources = np.asarray(apply_masks(masks, jnp.asarray(mixture)))
    # A magnitude, a quotient and a product: some five float32 roundings.
    np.testing.assert_allclose(np.abs(sources), estimated, rtol=1e-6)
    np.testing.assert_allclose(np.angle(sources / mixture), 0, atol=1e-6)


def test_direct_masks_are_zero_and_have_finite_gradients_where_the_mixture_is_silent():
    mixture = magnitudes((5, 7, 2))
    mixture[2] = 0

    def total(estimated, mixture):
        masks = direct_masks(estimated, mixture)
        return masks.sum(), masks

    (_, masks), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
        jnp.asarray(magnitudes((3, 5, 7, 2))), jnp.asarray(mixture)
    )
    assert (np.asarray(masks)[:, 2] == 0).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("sharpening", [2.0, 3.5])
def test_sharpened_masks_are_powers_of_the_masks_with_finite_gradients_at_zero(sharpening):
    mixture, estimated = magnitudes((5, 7, 2)) + 0.1, magnitudes((3, 5, 7, 2))
    estimated[1] = 0
    masks = direct_masks(jnp.asarray(estimated), jnp.asarray(mixture), sharpening=sharpening)
    # A quotient and a power: some ten float32 roundings.
    np.testing.assert_allclose(masks, (estimated / mixture) ** sharpening, rtol=2e-6)
    gradient = jax.grad(lambda values: direct_masks(values, jnp.asarray(mixture), sharpening=sharpening).sum())
    assert np.isfinite(gradient(jnp.asarray(estimated))).all()


def test_softmax_masks_sum_to_one():
    masks = softmax_masks(jnp.asarray(magnitudes()) * 50 - 25)
    np.testing.assert_allclose(np.asarray(masks).sum(axis=1), 1, rtol=1e-6)


def test_masks_are_extended_with_zeros_or_with_their_mean():
    masks = magnitudes((2, 3, 4, 1))
    zeros = np.asarray(extend_masks(jnp.asarray(masks), bins=9, extension="zeros"))
    average = np.asarray(extend_masks(jnp.asarray(masks), bins=9, extension="average"))
    for extended in (zeros, average):
        assert extended.shape == (2, 3, 9, 1)
        np.testing.assert_array_equal(extended[:, :, :4], masks)
    assert (zeros[:, :, 4:] == 0).all()
    np.testing.assert_allclose(average[:, :, 4:], np.repeat(masks.mean(axis=2, keepdims=True), 5, axis=2), rtol=1e-6)


def test_masked_spectrograms_of_masks_that_sum_to_one_sum_to_the_mixture():
    rng = np.random.default_rng(1)
    mixture = (rng.standard_normal((5, 7, 2)) + 1j * rng.standard_normal((5, 7, 2))).astype(np.complex64)
    sources = apply_masks(ratio_masks(jnp.asarray(magnitudes((4, 5, 7, 2)))), jnp.asarray(mixture))
    np.testing.assert_allclose(np.asarray(sources).sum(axis=0), mixture, rtol=1e-5, atol=1e-6)


def test_projection_is_the_nearest_set_of_waveforms_that_sums_to_the_mixture():
    rng = np.random.default_rng(2)
    estimates = rng.standard_normal((3, 50, 2)).astype(np.float32)
    mixture = rng.standard_normal((50, 2)).astype(np.float32)
    projected = np.asarray(project_onto_mixture(jnp.asarray(estimates), jnp.asarray(mixture)))
    np.testing.assert_allclose(projected.sum(axis=0), mixture, atol=2e-6)
    # Least squares with the constraint as a heavily weighted row is an independent statement of the same point.
    weight = 1e4
    system = np.concatenate([np.eye(3), weight * np.ones((1, 3))])
    target = np.concatenate([estimates.reshape(3, -1), weight * mixture.reshape(1, -1)]).astype(np.float64)
    nearest = np.linalg.lstsq(system, target, rcond=None)[0].reshape(estimates.shape)
    np.testing.assert_allclose(projected, nearest, atol=5e-6)
