"""A training loop of one's own: where it starts, what it learns from, and that it is the step of `python -m train`."""

from functools import partial

import jax
import numpy as np
import pytest
from weights.small_models import small_spec, small_variables

from jaxsep.errors import AudioError, ConfigError
from jaxsep.training import LossConfig, OptimizerConfig, objective, random_batches, start_training

SPEC = small_spec()


def tracks(count=2, length=3 * SPEC.chunk_length):
    """Ramps: every sample tells which track, source, place and channel it is from."""
    return [
        [
            (np.arange(2 * length).reshape(length, 2) + 1e5 * (len(SPEC.stems) * track + source)).astype(np.float32)
            for source in range(len(SPEC.stems))
        ]
        for track in range(count)
    ]


def test_batches_are_chunks_of_one_place_of_all_sources_and_their_sum():
    songs, seen = tracks(), set()
    batches = random_batches(songs, SPEC, batch_size=3, seed=1)
    for _ in range(20):
        batch = next(batches)
        assert batch.sources.shape == (3, len(SPEC.stems), SPEC.chunk_length, 2)
        for mixture, sources in zip(batch.mixture, batch.sources, strict=True):
            track, place = divmod(int(sources[0, 0, 0]), round(len(SPEC.stems) * 1e5))
            for source, true in zip(sources, songs[track], strict=True):
                np.testing.assert_array_equal(source, true[place // 2 : place // 2 + SPEC.chunk_length])
            np.testing.assert_array_equal(mixture, sources.sum(axis=0))
            seen.add((track, place))
    assert {track for track, _ in seen} == {0, 1} and len(seen) > 50
    again = random_batches(songs, SPEC, batch_size=3, seed=1)
    np.testing.assert_array_equal(next(again).sources, next(random_batches(songs, SPEC, batch_size=3, seed=1)).sources)


def test_sources_have_the_level_at_which_the_model_hears_their_track():
    """As Demucs trains (demucs/wav.py): without the mean of the mixture in mono, and divided by its deviation."""
    spec = small_spec(procedure={**SPEC.procedure.model_dump(), "normalise": {}})
    sources = np.stack([source + np.float32(7) for source in tracks(1, SPEC.chunk_length)[0]])
    mono = sources.sum(axis=0).mean(axis=1, dtype=np.float64)
    found = next(random_batches([list(sources)], spec, batch_size=1)).sources[0]
    np.testing.assert_allclose(found, (sources - mono.mean()) / mono.std(ddof=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("songs", "told"),
    [
        ([], "There is no track to learn from"),
        ([tracks()[0][:1]], "Track 1 has sources of 2 channels, and the model learns from 2 of 2: "),
        ([tracks()[0], [source[:, :1] for source in tracks()[0]]], "Track 2 has sources of 1, 1 channels"),
        (tracks(1, 10), r"Track 1 has 10 samples, and a chunk takes \d+; leave it out"),
    ],
)
def test_tracks_that_cannot_be_learned_from_are_refused_when_they_are_given(songs, told):
    with pytest.raises(AudioError, match=told):
        random_batches(songs, SPEC, batch_size=1)


def test_the_step_goes_down_the_gradient_of_the_objective():
    """One step of plain gradient descent, against the gradient that jax.grad takes of the objective by itself."""
    variables, rate = small_variables(SPEC), 0.1
    spec = small_spec(config={**SPEC.config.model_dump(), "dropout": 0.0})
    rng = np.random.default_rng(0)
    songs = [[0.1 * rng.standard_normal((SPEC.chunk_length, 2), np.float32) for _ in SPEC.stems]]
    batch = next(random_batches(songs, spec, batch_size=2))
    state, step = start_training(
        spec, variables=variables, optimizer=OptimizerConfig(kind="sgd", learning_rate=rate, momentum=0.0)
    )
    state, metrics = step(state, batch)
    loss_fn = partial(objective, model=spec.network(), spec=spec, loss=LossConfig(), train=True)
    (loss, _), gradients = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        variables["params"], variables["batch_stats"], batch, jax.random.key(0)
    )
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-5)
    moved = jax.tree.map(lambda before, gradient: before - rate * gradient, variables["params"], gradients)
    for found, expected in zip(jax.tree.leaves(state.params), jax.tree.leaves(moved), strict=True):
        # Gradients that are sums of many parts, in float32.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_that_does_not_fit_is_refused_before_anything_is_computed():
    with pytest.raises(ConfigError, match="1 stem_weights for the stems"):
        start_training(SPEC, loss=LossConfig(stem_weights=(1.0,)))
