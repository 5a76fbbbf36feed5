"""Hybrid Demucs (Défossez 2021): a branch on spectrograms and one on waveforms that meet where one row is left.

As `HDemucs` in facebookresearch/demucs, demucs/hdemucs.py.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.hybrid import separate
from jaxsep.models.hybrid_config import HybridConfig
from jaxsep.typing import SourceWaveform, Waveform


class HDemucsConfig(HybridConfig):
    """The shape of the network; see `HybridConfig`."""


class HDemucs(nn.Module):
    """Hybrid Demucs.

    Attributes:
        config: The shape of the network.
        dtype: What layers are computed in; None for float32.
        form: How residual branches are computed: 'auto' by the platform.
    """

    config: HDemucsConfig
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"

    @nn.compact
    def __call__(self, mixture: Waveform, *, train: bool) -> SourceWaveform:
        """Estimates sources (batch, source, time, channel) of mixtures (batch, time, channel) of any length."""
        # Decoders start from nothing: all that they know comes over the skips.
        return separate(mixture, self.config, lambda maps, _: (jnp.zeros_like(maps),) * 2, self.dtype, self.form)
