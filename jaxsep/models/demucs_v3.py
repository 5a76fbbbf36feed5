"""Demucs v3: a U-Net on waveforms with residual branches, as `Demucs` in facebookresearch/demucs, demucs/demucs.py."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.demucs_layers import (
    BLSTM,
    DConv,
    DConvConfig,
    Maps,
    OutMaps,
    TransposedConvolution,
    centre_trim,
    convolution,
    gelu,
    glu,
    group_norm,
)
from jaxsep.models.family import NetworkConfig
from jaxsep.models.sinc import downsample, upsample
from jaxsep.typing import SourceWaveform, Waveform

# What is added to the deviation before a mixture is divided by it.
_DEVIATION_EPSILON = 1e-5


class DemucsV3Config(NetworkConfig):
    """The shape of the network, under the names of Demucs's constructor but for `features` (its channels).

    Attributes:
        features: Channels of the first layer.
        growth: Channels of a layer over those of the one outside.
        depth: Number of layers.
        rewrite: Whether layers have gated convolutions.
        lstm_layers: Layers of an LSTM between encoder and decoder; 0 for none.
        kernel_size: Size of kernels.
        stride: Their step.
        context: Samples on either side that gated convolutions of the decoder see.
        norm_starts: First layer with group norms.
        norm_groups: Their groups.
        dconv_mode: Residual branches: 1 in the encoder, 2 in the decoder, 3 in both.
        dconv_depth: Their steps.
        dconv_comp: Channels of a layer over those of its branch.
        dconv_attn: First layer with attention in its branch.
        dconv_lstm: First layer with an LSTM in its branch.
        dconv_init: First value of the branches' scales.
        normalize: Whether each input is brought to mean 0 and deviation 1.
        resample: Whether the network runs at twice the rate.
        rescale: Deviation that first values of kernels are pulled to; 0 leaves them.
    """

    n_sources: int = pydantic.Field(default=4, ge=1)
    features: int = pydantic.Field(default=64, ge=1, le=1 << 16)
    growth: float = pydantic.Field(default=2.0, ge=0.1, le=16)
    depth: int = pydantic.Field(default=6, ge=1, le=16)
    rewrite: bool = True
    lstm_layers: int = pydantic.Field(default=0, ge=0, le=16)
    kernel_size: int = pydantic.Field(default=8, ge=1, le=1024)
    stride: int = pydantic.Field(default=4, ge=1, le=1024)
    context: int = pydantic.Field(default=1, ge=0)
    norm_starts: int = pydantic.Field(default=4, ge=0)
    norm_groups: int = pydantic.Field(default=4, ge=1)
    dconv_mode: int = pydantic.Field(default=1, ge=0, le=3)
    dconv_depth: int = pydantic.Field(default=2, ge=0, le=16)
    dconv_comp: float = pydantic.Field(default=4.0, gt=0)
    dconv_attn: int = pydantic.Field(default=4, ge=0)
    dconv_lstm: int = pydantic.Field(default=4, ge=0)
    dconv_init: float = 1e-4
    normalize: bool = True
    resample: bool = True
    rescale: float = pydantic.Field(default=0.1, ge=0)

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

    def layer_features(self) -> tuple[int, ...]:
        """Returns the channels of each layer, from the outermost one."""
        found = [self.features]
        for _ in range(self.depth - 1):
            found.append(int(self.growth * found[-1]))
        return tuple(found)

    def branch(self, index: int) -> DConvConfig:
        """Returns the residual branch of a layer."""
        return DConvConfig(
            compress=self.dconv_comp,
            depth=self.dconv_depth,
            init=self.dconv_init,
            attention=index >= self.dconv_attn,
            lstm=index >= self.dconv_lstm,
        )


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
            mono = mixture.mean(-1, keepdims=True)
            mean, deviation = mono.mean(1, keepdims=True), mono.std(1, ddof=1, keepdims=True)
            maps = (mixture - mean) / (_DEVIATION_EPSILON + deviation)
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
