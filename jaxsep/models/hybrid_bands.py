"""Outer layers of the hybrid Demucs that have weights of their own in each band of frequencies.

As `MultiWrap` in facebookresearch/demucs, demucs/hdemucs.py: with the same weights in all bands, these layers equal one
layer over all frequencies.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsep.models.demucs_layers import gelu
from jaxsep.models.hybrid_layers import DecoderLayer, EncoderLayer

Maps = Float[Array, "batch freq time channel"]
OutMaps = Float[Array, "batch out_freq time out_channel"]


class EncoderBands(nn.Module):
    """A layer of the encoder for each band. Its kernels reach into the next band, so that no row is seen twice.

    Attributes:
        shares: Shares of the frequencies at which bands end; the last band ends at the last row.
        layer: Makes the layer of a band, without padding, of its name.
        kernel_size: Size of the layers' kernels along frequency.
        stride: Their step.
    """

    shares: Sequence[float]
    layer: Callable[..., EncoderLayer]
    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, maps: Maps, inject: None = None) -> OutMaps:
        """Returns maps with fewer rows."""
        rows, size, stride, pad = maps.shape[1], self.kernel_size, self.stride, self.kernel_size // 4
        found, start = [], 0
        for number, share in enumerate((*self.shares, 1)):
            is_first, is_last = start == 0, share == 1
            end = rows
            if not is_last:
                seen = round(rows * share) - start + pad * is_first
                end = start + (round((seen - size) / stride + 1) - 1) * stride + size - pad * is_first
            band = jnp.pad(maps[:, start:end], [(0, 0), (pad * is_first, pad * is_last), (0, 0), (0, 0)])
            found.append(self.layer(name=f"band_{number}")(band))
            start = end - size + stride
        return jnp.concatenate(found, axis=1)


class DecoderBands(nn.Module):
    """A layer of the decoder for each band. What neighbours give for the same rows is added up.

    Attributes:
        shares: Shares of the frequencies at which bands end; the last band ends at the last row.
        layer: Makes the layer of a band, without padding and activation, of its name.
        stride: Step of the layers' transposed convolutions, half of the size of their kernels.
        is_last: Whether the output is that of the network, without activation.
    """

    shares: Sequence[float]
    layer: Callable[..., DecoderLayer]
    stride: int
    is_last: bool

    @nn.compact
    def __call__(self, maps: Maps, skipped: Maps, length: int) -> tuple[OutMaps, Maps]:
        """Returns maps with more rows, and what a layer without bands returns beside."""
        rows, half = maps.shape[1], self.stride // 2
        found: list[Array] = []
        start = 0
        for number, share in enumerate((*self.shares, 1)):
            end = rows if share == 1 else round(rows * share)
            layer = self.layer(name=f"band_{number}")
            band, _ = layer(maps[:, start:end], skipped[:, start:end], length)
            if found:
                shared = band[:, : self.stride] - layer.variables["params"]["conv_tr"]["bias"][None, None, None].astype(
                    band.dtype
                )
                found[-1] = found[-1].at[:, -self.stride :].add(shared)
                band = band[:, self.stride :]
            found.append(band)
            start = end
        outputs = jnp.concatenate(found, axis=1)[:, half : -half or None]
        return (outputs if self.is_last else gelu(outputs)), maps
