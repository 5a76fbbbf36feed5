"""Augmentation on the device: each effect by hand in numpy, and what it depends on."""

import jax
import numpy as np
import pytest

from train.augment import Examples, to_batch
from train.config import AugmentConfig

LENGTH, SOURCES = 50, 3


def examples(numbers=(0, 1, 2, 3), shift=0, mixture=False):
    shape = (SOURCES, LENGTH + shift, 2)
    sources = [np.random.default_rng(number).uniform(-1, 1, shape).astype(np.float32) for number in numbers]
    return Examples(np.stack(sources), np.asarray(numbers, np.int32), np.ones((len(numbers), LENGTH, 2)) * mixture)


def batch(found, config, *, key=0, n_sources=SOURCES):
    found = found._replace(mixture=None) if not np.any(found.mixture) else found
    return to_batch(found, jax.random.key(key), config=config, segment_length=LENGTH, n_sources=n_sources)


def test_nothing_is_changed_unless_asked():
    given = examples()
    found = batch(given, AugmentConfig())
    np.testing.assert_array_equal(found.sources, given.sources)
    # Three numbers summed in whichever order.
    np.testing.assert_allclose(found.mixture, given.sources.sum(axis=1), atol=1e-6)


def test_sources_beyond_the_models_are_in_the_mixture_alone():
    given = examples()
    found = batch(given, AugmentConfig(), n_sources=2)
    np.testing.assert_array_equal(found.sources, given.sources[:, :2])
    np.testing.assert_allclose(found.mixture, given.sources.sum(axis=1), atol=1e-6)


def test_a_mixture_of_its_own_stays():
    found = batch(examples(mixture=True), AugmentConfig())
    np.testing.assert_array_equal(found.mixture, np.ones((4, LENGTH, 2)))


def test_gains_lie_in_their_range_and_are_one_for_each_source():
    given = examples(range(200))
    found = batch(given, AugmentConfig(gain_low=0.25, gain_high=1.25))
    gains = np.asarray(found.sources) / given.sources
    np.testing.assert_allclose(gains, np.broadcast_to(gains[:, :, :1, :1], gains.shape), rtol=1e-5)
    gains = gains[:, :, 0, 0]
    assert gains.min() >= 0.25 - 1e-6
    assert gains.max() <= 1.25 + 1e-6
    # Of 600 uniform numbers, the mean lies within four standard deviations of 0.012.
    assert abs(gains.mean() - 0.75) < 0.05
    assert gains.min() < 0.3
    assert gains.max() > 1.2
    assert np.ptp(gains, axis=1).min() > 0


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (AugmentConfig(swap_channels=0.5), lambda source: source[:, ::-1]),
        (AugmentConfig(flip_polarity=0.5), lambda source: -source),
    ],
)
def test_half_of_the_sources_are_swapped_or_flipped(config, changed):
    given = examples(range(100))
    found = np.asarray(batch(given, config).sources)
    flags = np.zeros((100, SOURCES), bool)
    for place in np.ndindex(flags.shape):
        flags[place] = np.array_equal(found[place], changed(given.sources[place]))
        assert flags[place] or np.array_equal(found[place], given.sources[place])
    # 300 coins: four standard deviations are 35.
    assert 115 < flags.sum() < 185


def test_sources_are_shifted_against_each_other_by_whole_samples():
    given = examples(range(60), shift=9)
    found = np.asarray(batch(given, AugmentConfig(shift=9)).sources)
    starts = np.zeros(found.shape[:2], int)
    for place in np.ndindex(starts.shape):
        fits = [
            start for start in range(10) if np.array_equal(found[place], given.sources[place][start : start + LENGTH])
        ]
        (starts[place],) = fits
    assert set(starts.ravel()) == set(range(10))
    assert (starts[:, 0] != starts[:, 1]).any()


def test_what_is_drawn_follows_from_key_and_number_wherever_the_example_lies():
    config = AugmentConfig(gain_low=0.1, swap_channels=0.5, flip_polarity=0.5)
    together = batch(examples(range(8)), config)
    moved = batch(examples([5, 2]), config)
    np.testing.assert_array_equal(moved.sources, np.asarray(together.sources)[[5, 2]])
    other = batch(examples([5, 2]), config, key=1)
    assert np.abs(np.asarray(other.sources) - moved.sources).max() > 0.01


def test_sources_that_are_shifted_together_stay_together():
    given = examples(range(60), shift=9)
    found = np.asarray(batch(given, AugmentConfig(shift=9, shift_together=True)).sources)
    starts = []
    for sources, whole in zip(found, given.sources, strict=True):
        (start,) = [start for start in range(10) if np.array_equal(sources, whole[:, start : start + LENGTH])]
        starts.append(start)
    assert set(starts) == set(range(10))
