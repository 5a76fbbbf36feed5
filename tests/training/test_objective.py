"""The objective against its own parts in numpy, and what it refuses."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights.small_models import small_spec, small_variables

from jaxsep.errors import ConfigError
from jaxsep.models import FAMILIES
from jaxsep.models.unet import UNet
from jaxsep.separation.estimate import estimate_chunks
from jaxsep.training.objective import Batch, LossConfig, LossKind, LossTerm, objective


def batch_for(spec, examples=3, seed=0, length=None):
    rng = np.random.default_rng(seed)
    sources = (
        rng.standard_normal((examples, 2, length or spec.procedure.cutting.chunk_length, 2)).astype(np.float32) * 0.2
    )
    return Batch(jnp.asarray(sources.sum(axis=1)), jnp.asarray(sources))


def run(spec, loss, batch, train=False):
    variables = small_variables(spec)
    return objective(
        variables["params"],
        variables.get("batch_stats", {}),
        batch,
        jax.random.key(0),
        model=UNet(spec.config, form="native"),
        spec=spec,
        loss=loss,
        train=train,
    )


def magnitudes(waveforms, spec):
    """By numpy, frame by frame."""
    n_fft, hop = spec.domain.stft.n_fft, spec.domain.stft.hop_length
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, waveforms.shape[-2] - n_fft + 1, hop)
    frames = np.stack([waveforms[..., s : s + n_fft, :] for s in starts], axis=-3) * window[:, None]
    return np.abs(np.fft.rfft(frames.astype(np.float64), axis=-2))[..., : spec.domain.bins, :]


def test_the_magnitude_loss_is_spleeters():
    """Sum over stems of the mean of |estimate - |S||, on the model's bins, with the network's own output."""
    spec = small_spec()
    batch = batch_for(spec)
    value, evaluated = run(spec, LossConfig(), batch)
    network = UNet(spec.config, form="native")
    heard = jnp.asarray(magnitudes(np.asarray(batch.mixture), spec), jnp.float32)
    estimates = np.asarray(network.apply(small_variables(spec), heard, train=False))
    errors = np.abs(estimates - magnitudes(np.asarray(batch.sources), spec)).mean(axis=(2, 3, 4))
    # Relative: float32 transforms and a network of two layers against float64 magnitudes.
    np.testing.assert_allclose(value, errors.sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(evaluated.stems, errors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(evaluated.examples, errors.sum(axis=1), rtol=1e-5)


def test_a_waveform_loss_compares_what_separation_gives():
    """The estimates are those of `estimate_chunks`, where all frames overlap."""
    spec = small_spec()
    batch = batch_for(spec)
    _, evaluated = run(spec, LossConfig(terms=(LossTerm(kind="waveform_l1"),)), batch)
    network = UNet(spec.config, form="native")
    chunks = batch.mixture, jnp.ones((len(batch.mixture), 8))
    separated = estimate_chunks(small_variables(spec), chunks, model=network, domain=spec.domain, sources=(0, 1))
    inside = slice(48, -48)
    errors = np.abs(np.asarray(separated.waveforms) - np.asarray(batch.sources))[:, :, inside].mean(axis=(2, 3))
    np.testing.assert_allclose(evaluated.stems, errors.mean(axis=0), rtol=1e-5)  # the same float32 sums, reordered


def test_terms_and_stems_are_weighted():
    spec = small_spec()
    batch = batch_for(spec)
    kinds = ("magnitude_l1", "waveform_l2", "negative_si_sdr", "log_wmse")
    alone = [np.asarray(run(spec, LossConfig(terms=(LossTerm(kind=kind),)), batch)[1].stems) for kind in kinds]
    terms = tuple(LossTerm(kind=kind, weight=index + 1) for index, kind in enumerate(kinds))
    value, evaluated = run(spec, LossConfig(terms=terms, stem_weights=(2.0, 0.5)), batch)
    expected = sum((index + 1) * stems for index, stems in enumerate(alone))
    np.testing.assert_allclose(evaluated.stems, expected, rtol=1e-5)
    np.testing.assert_allclose(value, expected @ [2.0, 0.5], rtol=1e-5)


@pytest.mark.parametrize("kind", get_args(LossKind))
def test_value_and_gradients_are_finite_on_silence(kind):
    spec = small_spec()
    assert_finite(spec, UNet(spec.config, form="native"), small_variables(spec), kind)


@pytest.mark.parametrize(("family", "input_scale"), [("jansson", "plain"), ("jansson", "log"), ("classic_unet", "log")])
@pytest.mark.parametrize("kind", ["magnitude_l2", "negative_si_sdr"])
def test_so_they_are_for_networks_that_scale_their_input(family, input_scale, kind):
    """By the largest magnitude of a segment, which is 0, or by a logarithm; and norms see no variance."""
    config = {"n_sources": 2, "channels": 2, "bins": 16, "filters": (4, 6), "input_scale": input_scale}
    spec = small_spec(family=family, config=config, masks={"kind": "direct"})
    model = FAMILIES[family].module(spec.config, form="native")
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 8, 16, 2)))
    assert_finite(spec, model, variables, kind)


def assert_finite(spec, model, variables, kind):
    """On batches that are silent in all, in one of two sources, and in both under a mixture of what is no stem's."""
    value = partial(
        objective,
        batch_stats=variables["batch_stats"],
        key=jax.random.key(0),
        model=model,
        spec=spec,
        loss=LossConfig(terms=(LossTerm(kind=kind),)),
        train=True,
    )
    step = jax.jit(jax.value_and_grad(lambda params, batch: value(params, batch=batch)[0]))
    # 128 frames: longer than half the longest frame of the multi-resolution loss.
    mixture, sources = map(np.asarray, batch_for(spec, length=128 * 16 + 48))
    one = sources * np.array([0, 1], np.float32)[:, None, None]
    for batch in (
        Batch(np.zeros_like(mixture), np.zeros_like(sources)),
        Batch(one.sum(axis=1), one),
        Batch(mixture, np.zeros_like(sources)),
    ):
        found, gradients = step(variables["params"], batch)
        assert np.isfinite(found)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_training_updates_the_statistics_and_evaluation_does_not():
    spec = small_spec()
    before = small_variables(spec)["batch_stats"]
    for train in (True, False):
        _, evaluated = run(spec, LossConfig(), batch_for(spec), train=train)
        same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), evaluated.batch_stats, before)
        assert any(not leaf for leaf in jax.tree.leaves(same)) == train


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="3 stem_weights for the stems vocals, accompaniment"):
        LossConfig(stem_weights=(1.0, 1.0, 1.0)).check(small_spec(), 176)
    waveforms = LossConfig(terms=(LossTerm(kind="waveform_l1"),))
    waveforms.check(small_spec(), 112)  # n_fft 64 and hop 16: one hop in the middle is complete
    with pytest.raises(ConfigError, match="an example of 96 samples has none; give longer ones"):
        waveforms.check(small_spec(), 96)
    with pytest.raises(ConfigError, match="nothing would be learned"):
        LossConfig.parse({"stem_weights": [0, 0]}, where="the loss")
