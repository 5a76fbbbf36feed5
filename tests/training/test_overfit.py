"""Training learns: one batch, over and over, until it is known by heart."""

from functools import partial

import jax
import numpy as np
from weights.small_models import small_spec

from jaxsep.models.unet import UNet
from jaxsep.training.objective import Batch, LossConfig, objective
from jaxsep.training.optimizer import OptimizerConfig, build_optimizer
from jaxsep.training.state import create_state
from jaxsep.training.step import train_step

SPEC = small_spec(
    config={"n_sources": 2, "channels": 2, "bins": 16, "filters": (16, 32), "dropout": 0.0}, masks={"kind": "direct"}
)


def test_one_batch_is_learned_to_five_per_cent_of_its_first_loss_within_300_steps():
    """Two tones that come and go, each a source: masks that tell them apart leave nearly nothing."""
    time = np.arange(SPEC.procedure.cutting.chunk_length) / SPEC.sample_rate
    rng = np.random.default_rng(0)
    tones = np.sin(2 * np.pi * np.asarray([500.0, 1500.0])[:, None] * time)  # (source, time)
    gates = rng.uniform(0.2, 1, (4, 2, 1, 2))
    sources = (0.3 * tones[None, :, :, None] * gates).astype(np.float32)
    batch = Batch(sources.sum(axis=1), sources)
    model = UNet(SPEC.config, form="native")
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), jax.numpy.zeros((1, 8, 16, 2)))
    optimizer = build_optimizer(OptimizerConfig(learning_rate=1e-2), variables["params"])
    loss_fn = partial(objective, model=model, spec=SPEC, loss=LossConfig(), train=True)
    step = jax.jit(partial(train_step, loss_fn=loss_fn, optimizer=optimizer, axis_name=None))
    state, losses = create_state(variables, optimizer, ema=False), []
    for _ in range(300):
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics.loss))
    assert min(losses) < 0.05 * losses[0]
