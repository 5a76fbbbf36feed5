"""Demucs v3: a U-Net on waveforms with residual branches, as `Demucs` in facebookresearch/demucs, demucs/demucs.py."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.demucs_config import BranchedDemucsConfig, WaveformDemucsConfig
from jaxsep.models.demucs_layers import (
    BLSTM,
    DEVIATION_EPSILON,
    DConv,
    Maps,
    OutMaps,
    TransposedConvolution,
    centre_trim,
    convolution,
    gelu,
    glu,
    group_norm,
    mono_level,
)
from jaxsep.models.sinc import downsample, upsample
from jaxsep.typing import SourceWaveform, Waveform


class DemucsV3Config(WaveformDemucsConfig, BranchedDemucsConfig):
    """The shape of the network; see `WaveformDemucsConfig` and `BranchedDemucsConfig`.

    Attributes:
        context: Samples on either side that gated convolutions of the decoder see.
    """

    context: int = pydantic.Field(default=1, ge=0)

    def input_length(self, output_length: int) -> int:
        """Returns how much the network hears around so many estimates, as Demucs gives it: see `valid_length`."""
        return self.valid_length(output_length)

    def valid_length(self, length: int) -> int:
        """Returns the shortest length, not below `length`, of which layers leave no sample over."""
        inner = length * (1 + self.resample)
        for _ in range(self.depth):
            inner = max(-(-(inner - self.kernel_size) // self.stride) + 1, 1)
        for _ in range(self.depth):
            inner = (inner - 1) * self.stride + self.kernel_size
        return -(-inner // (1 + self.resample))


class DemucsV3(nn.Module):
    """Demucs v3.

    Attributes:
        config: The shape of the network.
        dtype: What layers are computed in; None for float32.
        form: How residual branches are computed: 'auto' by the platform.
    """

    config: DemucsV3Config
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"

    @nn.compact
    def __call__(self, mixture: Waveform, *, train: bool) -> SourceWaveform:
        """Estimates sources (batch, source, time, channel) of mixtures (batch, time, channel) of any length."""
        config, (batch, length, channels) = self.config, mixture.shape
        maps, mean, deviation = mixture, jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))
        if config.normalize:
            mean, deviation = mono_level(mixture)
            maps = (mixture - mean) / (DEVIATION_EPSILON + deviation)
        missing = config.valid_length(length) - length
        maps = jnp.pad(maps, [(0, 0), (missing // 2, missing - missing // 2), (0, 0)])
        maps = upsample(maps) if config.resample else maps
        skipped = []
        for index in range(config.depth):
            maps = _Encoder(config, index, self.dtype, self.form, name=f"encoder_{index}")(maps)
            skipped.append(maps)
        if config.lstm_layers:
            maps = BLSTM(config.lstm_layers, None, skip=False, dtype=self.dtype, name="lstm")(maps)
        for index in reversed(range(config.depth)):
            layer = _Decoder(config, index, self.dtype, self.form, name=f"decoder_{config.depth - 1 - index}")
            maps = layer(maps + centre_trim(skipped[index], maps.shape[1]))
        maps = maps.astype(jnp.float32)
        maps = centre_trim((downsample(maps) if config.resample else maps) * deviation + mean, length)
        return jnp.moveaxis(maps.reshape(batch, length, config.n_sources, channels), 2, 1)


class _Encoder(nn.Module):
    config: DemucsV3Config
    index: int
    dtype: DTypeLike | None
    form: ConvolutionForm

    @nn.compact
    def __call__(self, maps: Maps) -> OutMaps:
        config, features = self.config, self.config.layer_features()[self.index]
        common: dict[str, Any] = {"rescale": config.rescale, "dtype": self.dtype}
        first = convolution(
            maps.shape[-1], features, (config.kernel_size,), strides=(config.stride,), name="conv", **common
        )
        maps = gelu(_normalised(first(maps), config, self.index, self.dtype, "norm1"))
        if config.dconv_mode & 1:
            maps = DConv(config.branch(self.index), config.rescale, self.dtype, self.form, name="dconv")(maps)
        if not config.rewrite:
            return maps
        maps = convolution(features, 2 * features, (1,), name="rewrite", **common)(maps)
        return glu(_normalised(maps, config, self.index, self.dtype, "norm2"))


class _Decoder(nn.Module):
    config: DemucsV3Config
    index: int
    dtype: DTypeLike | None
    form: ConvolutionForm

    @nn.compact
    def __call__(self, maps: Maps) -> OutMaps:
        config, features = self.config, maps.shape[-1]
        if config.rewrite:
            maps = convolution(
                features,
                2 * features,
                (1 + 2 * config.context,),
                padding=(config.context,),
                rescale=config.rescale,
                dtype=self.dtype,
                name="rewrite",
            )(maps)
            maps = glu(_normalised(maps, config, self.index, self.dtype, "norm1"))
        if config.dconv_mode & 2:
            maps = DConv(config.branch(self.index), config.rescale, self.dtype, self.form, name="dconv")(maps)
        is_last = self.index == 0
        outputs = config.n_sources * config.channels if is_last else config.layer_features()[self.index - 1]
        size, stride = (config.kernel_size,), (config.stride,)
        maps = TransposedConvolution(outputs, size, stride, config.rescale, self.dtype, name="conv_tr")(maps)
        return maps if is_last else gelu(_normalised(maps, config, self.index, self.dtype, "norm2"))


def _normalised(maps: Maps, config: DemucsV3Config, index: int, dtype: DTypeLike | None, name: str) -> Maps:
    return group_norm(config.norm_groups, dtype, name)(maps) if index >= config.norm_starts else maps
