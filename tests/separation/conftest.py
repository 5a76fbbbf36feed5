"""A model whose right answer is known: each source is the mixture times a number."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.dsp.cuts import Chunking
from jaxsep.models import FAMILIES, Family, NetworkConfig, Procedure, Waveform
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.separator import Model


class GainsConfig(NetworkConfig):
    gains: tuple[float, ...] = (1.0, -0.5)


class Gains(nn.Module):
    """Each source is the mixture times its gain; a gain of 'inf' makes what a broken model makes."""

    config: GainsConfig
    dtype: type | None = None

    def __call__(self, chunks, *, train):
        gains = jnp.asarray(self.config.gains, chunks.dtype)
        if self.dtype is not None:
            gains = gains.astype(self.dtype)
        scaled = jnp.expand_dims(chunks, -3) * gains[:, None, None].reshape((1,) * (chunks.ndim - 2) + (-1, 1, 1))
        return scaled.astype(chunks.dtype)


@pytest.fixture
def gains_model(monkeypatch):
    """Makes a model on waveforms whose sources are gains of the mixture."""
    monkeypatch.setitem(FAMILIES, "gains", Family(GainsConfig, Gains, "waveform", is_builtin=True))

    def make(gains=(1.0, -0.5), *, chunking=None, channels=2, sample_rate=44100, **procedure):
        config = GainsConfig(n_sources=len(gains), channels=channels, gains=tuple(gains))
        cutting = chunking or Chunking(chunk_length=1000, chunk_hop=700, window="crossfade")
        spec = ModelSpec(
            name="gains",
            family="gains",
            config=config,
            stems=tuple(f"stem{index}" for index in range(len(gains))),
            sample_rate=sample_rate,
            channels=channels,
            domain=Waveform(),
            procedure=Procedure(cutting=cutting, **procedure),
            licence="MIT",
            provenance="made for a test",
        )
        return Model(Gains(config), {}, spec, "0" * 64)

    return make


def noise(length, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (length, channels)).astype(np.float32)
