"""Augmentation on the device: gain, channels, polarity and shift of each source, then the mixture as their sum.

Pure. What needs other tracks or a resampler is done on the host, in input_pipeline.py.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxsep.training.objective import Batch
from train.config import AugmentConfig

Source = Float[Array, "time channel"]


class Examples(NamedTuple):
    """What the loader gives: examples before augmentation, as host or device arrays.

    Attributes:
        sources: (batch, source, time, channel): those of the model, in its order, then perhaps one that is all else in
            the mixture. Longer than a segment by what they may be shifted.
        index: Which example of the run each is, (batch,).
        mixture: (batch, time, channel) where it is not the sum of the sources; else None.
    """

    sources: Any
    index: Any
    mixture: Any = None


def to_batch(
    examples: Examples, key: PRNGKeyArray, *, config: AugmentConfig, segment_length: int, n_sources: int
) -> Batch:
    """Varies examples and mixes them.

    What is drawn for an example follows from the key and the example's number, wherever it lies in whichever batch.

    Args:
        examples: From the loader.
        key: Of the run.
        config: What is varied.
        segment_length: Samples of what the network sees.
        n_sources: Of the model; more than these are in the mixture alone.
    """

    def vary(sources: Float[Array, "source time channel"], number: Any) -> Float[Array, "source segment channel"]:
        keys = jax.random.split(jax.random.fold_in(key, number), sources.shape[0])
        shifting = keys[jnp.zeros(len(keys), int)] if config.shift_together else keys
        return jax.vmap(partial(_vary, config=config, segment_length=segment_length))(sources, keys, shifting)

    sources = jax.vmap(vary)(examples.sources, examples.index)
    mixture = sources.sum(axis=1) if examples.mixture is None else examples.mixture
    return Batch(mixture, sources[:, :n_sources])


def _vary(
    source: Source, key: PRNGKeyArray, shifting: PRNGKeyArray, config: AugmentConfig, segment_length: int
) -> Float[Array, "segment channel"]:
    gain_key, swap_key, flip_key, _ = jax.random.split(key, 4)
    if config.shift:
        shift_key = jax.random.split(shifting, 4)[3]
        start = jax.random.randint(shift_key, (), 0, config.shift + 1)
        source = jax.lax.dynamic_slice_in_dim(source, start, segment_length)
    if config.swap_channels:
        source = jnp.where(jax.random.bernoulli(swap_key, config.swap_channels), source[:, ::-1], source)
    gain = jnp.ones((), source.dtype)
    if (config.gain_low, config.gain_high) != (1.0, 1.0):
        gain = jax.random.uniform(gain_key, minval=config.gain_low, maxval=config.gain_high)
    if config.flip_polarity:
        gain = jnp.where(jax.random.bernoulli(flip_key, config.flip_polarity), -gain, gain)
    return gain * source
