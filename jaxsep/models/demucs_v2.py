"""Demucs v2: a U-Net on waveforms with an LSTM inside, as `Demucs` on branch v2 of facebookresearch/demucs.

Convolutions see real samples alone: of a chunk less is estimated than is seen.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.errors import ConfigError
from jaxsep.models.demucs_config import WaveformDemucsConfig
from jaxsep.models.demucs_layers import (
    BLSTM,
    DEVIATION_EPSILON,
    Maps,
    OutMaps,
    TransposedConvolution,
    centre_trim,
    convolution,
    glu,
    mono_level,
)
from jaxsep.models.sinc import downsample, upsample
from jaxsep.typing import Waveform


class DemucsV2Config(WaveformDemucsConfig):
    """The shape of the network; see `WaveformDemucsConfig`.

    Attributes:
        context: Size of the decoder's gated convolutions.
    """

    lstm_layers: int = pydantic.Field(default=2, ge=0, le=16)
    context: int = pydantic.Field(default=3, ge=1)
    normalize: bool = False

    def input_length(self, output_length: int) -> int:
        """Returns the shortest input of which `output_length` or more are estimated, no sample left over."""
        inner = output_length * (1 + self.resample)
        for _ in range(self.depth):
            inner = max(-(-(inner - self.kernel_size) // self.stride) + 1, 1) + self.context - 1
        for _ in range(self.depth):
            inner = (inner - 1) * self.stride + self.kernel_size
        return -(-inner // (1 + self.resample))

    def output_length(self, input_length: int) -> int:
        """Returns how much is estimated of an input, in its middle.

        Raises:
            ConfigError: The network does not take that length.
        """
        inner = input_length * (1 + self.resample)
        for _ in range(self.depth):
            inner = (inner - self.kernel_size) // self.stride + 1
        for _ in range(self.depth):
            inner = (inner - self.context * self.rewrite + self.rewrite - 1) * self.stride + self.kernel_size
        found = inner // (1 + self.resample)
        if found < 1 or found > input_length:
            raise ConfigError(
                f"The network estimates nothing of {input_length} samples; give {self.input_length(1)} or more."
            )
        return found


class DemucsV2(nn.Module):
    """Demucs v2.

    Attributes:
        config: The shape of the network.
        dtype: What layers are computed in; None for float32.
    """

    config: DemucsV2Config
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, mixture: Waveform, *, train: bool) -> Float[Array, "batch source out_time channel"]:
        """Estimates sources (batch, source, out_time, channel) of the middle of mixtures (batch, time, channel)."""
        config, (batch, _, channels) = self.config, mixture.shape
        mean, deviation = mono_level(mixture) if config.normalize else (jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
        # Mixtures are divided by 1 and a little also where they are not normalised.
        maps = (mixture - mean) / (DEVIATION_EPSILON + deviation)
        maps = upsample(maps) if config.resample else maps
        skipped = []
        for index in range(config.depth):
            maps = _Encoder(config, index, self.dtype, name=f"encoder_{index}")(maps)
            skipped.append(maps)
        if config.lstm_layers:
            maps = BLSTM(config.lstm_layers, None, skip=False, dtype=self.dtype, name="lstm")(maps)
        for index in reversed(range(config.depth)):
            layer = _Decoder(config, index, self.dtype, name=f"decoder_{config.depth - 1 - index}")
            maps = layer(maps + centre_trim(skipped[index], maps.shape[1]))
        maps = maps.astype(jnp.float32)
        maps = (downsample(maps) if config.resample else maps) * deviation + mean
        return jnp.moveaxis(maps.reshape(batch, -1, config.n_sources, channels), 2, 1)


class _Encoder(nn.Module):
    config: DemucsV2Config
    index: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, maps: Maps) -> OutMaps:
        config = self.config
        conv = convolution(
            maps.shape[-1],
            config.layer_features()[self.index],
            (config.kernel_size,),
            strides=(config.stride,),
            rescale=config.rescale,
            dtype=self.dtype,
            name="conv",
        )
        return _gated(jax.nn.relu(conv(maps)), 1, config, self.dtype)


class _Decoder(nn.Module):
    config: DemucsV2Config
    index: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, maps: Maps) -> OutMaps:
        config = self.config
        maps = _gated(maps, config.context, config, self.dtype)
        is_last = self.index == 0
        outputs = config.n_sources * config.channels if is_last else config.layer_features()[self.index - 1]
        size, stride = (config.kernel_size,), (config.stride,)
        maps = TransposedConvolution(outputs, size, stride, config.rescale, self.dtype, name="conv_tr")(maps)
        return maps if is_last else jax.nn.relu(maps)


def _gated(maps: Maps, size: int, config: DemucsV2Config, dtype: DTypeLike | None) -> OutMaps:
    if not config.rewrite:
        return maps
    features = maps.shape[-1]
    rewrite = convolution(features, 2 * features, (size,), rescale=config.rescale, dtype=dtype, name="rewrite")
    return glu(rewrite(maps))
