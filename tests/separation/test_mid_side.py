"""Models that see the middle and the sides of a stereo signal, against models that see a signal rotated by numpy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from separation.conftest import noise
from separation.test_estimate import unet_model, whole

from jaxsep.dsp.wiener import NORBERT
from jaxsep.errors import ConfigError
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.separator import Separator
from jaxsep.training.objective import Batch, LossConfig, LossTerm, objective

# (middle, sides) of (left, right), and back.
ROTATION = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
# Float32 rounding of the rotation, relative to samples of the order of one.
ROUNDING = 2e-6


def rotated(audio):
    return (audio @ ROTATION).astype(np.float32)


def seeing_mid_side():
    model = unet_model()
    domain = model.spec.domain.model_copy(update={"stereo": "mid_side"})
    return replace(model, spec=model.spec.model_copy(update={"domain": domain}))


@pytest.mark.parametrize("wiener", [None, NORBERT])
def test_it_sees_a_rotated_mixture_and_its_estimates_are_rotated_back(wiener):
    mixture = noise(5000)
    ours = whole(seeing_mid_side(), mixture, wiener)
    expected = rotated(whole(unet_model(), rotated(mixture), wiener))
    # The filter's matrices amplify rounding some tens of times.
    np.testing.assert_allclose(ours, expected, atol=ROUNDING if wiener is None else 50 * ROUNDING)
    # That it is another model than the one that sees left and right:
    assert np.abs(ours - whole(unet_model(), mixture, wiener)).max() > 1e-3


@pytest.mark.parametrize("wiener", [None, NORBERT])
def test_a_moving_window_gives_what_the_whole_track_gives(wiener):
    model, mixture = seeing_mid_side(), noise(5000)
    separation = Separator(model, filter=wiener or "auto", batch_size=2).separate(mixture, 8000)
    streamed = np.stack(list(separation.stems.values()))
    np.testing.assert_allclose(
        streamed, whole(model, mixture, wiener), atol=ROUNDING if wiener is None else 50 * ROUNDING
    )


@pytest.mark.parametrize("kind", ["magnitude_l1", "waveform_l2", "negative_sdr"])
def test_the_objective_is_that_of_rotated_examples(kind):
    """Waveforms are compared as they are heard; a rotation leaves their squared errors as they are."""
    model, loss = seeing_mid_side(), LossConfig(terms=(LossTerm(kind=kind),))
    sources = np.stack([noise(model.spec.chunk_length, seed=seed) for seed in range(6)]).reshape(2, 3, -1, 2)

    def value(model, sources):
        batch = Batch(jnp.asarray(sources.sum(axis=1)), jnp.asarray(sources))
        params, statistics = (model.variables[name] for name in ("params", "batch_stats"))
        key = jax.random.key(0)
        return objective(params, statistics, batch, key, model=model.module, spec=model.spec, loss=loss, train=False)[0]

    # Relative: float32 sums over some thousand samples.
    np.testing.assert_allclose(value(model, sources), value(unet_model(), rotated(sources)), rtol=1e-5)
    assert not np.allclose(value(model, sources), value(unet_model(), sources), rtol=1e-3)


def test_only_two_channels_have_a_middle():
    described = unet_model().spec.model_dump(mode="json")
    described["domain"]["stereo"] = "mid_side"
    described |= {"channels": 1, "config": {**described["config"], "channels": 1}}
    with pytest.raises(ConfigError, match="of two channels"):
        ModelSpec.parse(described, where="the test")
