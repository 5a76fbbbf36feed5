"""Tiny networks of all kinds of Demucs, and steps of theirs on made-up batches, for tests of the step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.models.spec import ModelSpec
from jaxsep.training.objective import Batch, LossConfig, LossTerm, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step

L1 = LossConfig(terms=(LossTerm(kind="waveform_l1"),))
# One of them has residual branches with LSTM and local attention; the transformer attends to both sequences.
_RECURRENT = {
    "dconv_comp": 2.0,
    "dconv_depth": 1,
    "dconv_init": 0.1,
    "dconv_lstm": 1,
    "dconv_attn": 1,
    "norm_starts": 1,
}
_TRANSFORMER = {"layers": 2, "heads": 2, "hidden_scale": 1.0, "dropout": 0.0}
CONFIGS = {
    "demucs_v2": {"features": 4, "depth": 2, "lstm_layers": 1},
    "demucs_v3": {"features": 4, "depth": 2, **_RECURRENT},
    "hdemucs": {"features": 4, "depth": 2, "n_fft": 64, "dconv_mode": 0},
    "htdemucs": {"features": 4, "depth": 1, "n_fft": 64, "dconv_mode": 0, "transformer": _TRANSFORMER},
}


def spec_of(family, **changes):
    return ModelSpec.parse(
        {
            "name": family,
            "family": family,
            "config": {"n_sources": 2, **CONFIGS[family], **changes},
            "stems": ("first", "second"),
            "sample_rate": 8000,
            "channels": 2,
            "domain": {"kind": "waveform"},
            "procedure": {"cutting": {"estimate_length": 300, "last": "own_length"}},
            "licence": "none",
            "provenance": "made up",
        },
        where="the test",
    )


def variables_of(spec):
    """Random parameters that no leaf of is nearly zero."""
    shapes = jax.eval_shape(
        partial(spec.network().init, train=False), jax.random.key(0), jnp.zeros((1, *spec.input_shape()))
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32) / 3, shapes)


def batch_of(spec, step, examples=8):
    rng = np.random.default_rng(step)
    sources = rng.standard_normal((examples, len(spec.stems), spec.chunk_length, 2)).astype(np.float32) * 0.2
    return Batch(sources.sum(axis=1), sources)


def step_and_state(spec, variables, **options):
    optimizer = build_optimizer(OptimizerConfig(learning_rate=1e-4), variables["params"])
    loss_fn = partial(objective, model=spec.network(), spec=spec, loss=L1, train=True, **options)
    return partial(train_step, loss_fn=loss_fn, optimizer=optimizer), create_state(variables, optimizer, ema=False)
