"""Hybrid Transformer Demucs (Rouard, Massa and Défossez 2022): two branches that exchange through a transformer.

As `HTDemucs` in facebookresearch/demucs, demucs/htdemucs.py.
"""

import flax.linen as nn
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.errors import ConfigError
from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.cross_transformer import CrossTransformer, TransformerConfig
from jaxsep.models.demucs_layers import convolution
from jaxsep.models.hybrid import separate
from jaxsep.models.hybrid_config import HybridConfig
from jaxsep.typing import SourceWaveform, Waveform


class HTDemucsConfig(HybridConfig):
    """The shape of the network; see `HybridConfig`.

    Attributes:
        bottom_channels: Channels of the transformer; 0 for those of the innermost layer.
        transformer: What lies between encoders and decoders; null for nothing.
        train_segment: Samples of a training example, which shorter inputs are filled up to by zeros and longer ones
            must not exceed; null for any length.
    """

    depth: int = pydantic.Field(default=4, ge=1, le=16)
    dconv_comp: float = pydantic.Field(default=8.0, gt=0)
    dconv_attn: int = pydantic.Field(default=1000, ge=0)
    dconv_lstm: int = pydantic.Field(default=1000, ge=0)
    bottom_channels: int = pydantic.Field(default=0, ge=0, le=1 << 16)
    transformer: TransformerConfig | None = TransformerConfig()
    train_segment: int | None = pydantic.Field(default=None, ge=1)

    @pydantic.model_validator(mode="after")
    def _heads_divide_the_channels(self) -> "HTDemucsConfig":
        channels = self.bottom_channels or self.layers()[-1].features
        if self.transformer is not None and (channels % self.transformer.heads or channels % 4):
            raise ValueError(
                f"the transformer's {channels} channels must be a multiple of 4 and of its "
                f"{self.transformer.heads} heads"
            )
        return self

    def output_length(self, input_length: int) -> int:
        """Returns how much is estimated of an input: all of it.

        Raises:
            ConfigError: It is longer than what the transformer was trained on.
        """
        if self.train_segment is not None and input_length > self.train_segment:
            raise ConfigError(
                f"The transformer was trained on {self.train_segment} samples at a time, and {input_length} are asked "
                "for; give shorter chunks."
            )
        return super().output_length(input_length)


class HTDemucs(nn.Module):
    """Hybrid Transformer Demucs.

    Attributes:
        config: The shape of the network.
        dtype: What layers are computed in; None for float32.
        form: How attention and residual branches are computed: 'auto' by the platform.
    """

    config: HTDemucsConfig
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"

    @nn.compact
    def __call__(self, mixture: Waveform, *, train: bool) -> SourceWaveform:
        """Estimates sources (batch, source, time, channel) of mixtures (batch, time, channel).

        In training inputs are taken as long as they are.
        """
        config, length = self.config, mixture.shape[1]
        if config.train_segment is not None and not train:
            mixture = jnp.pad(mixture, [(0, 0), (0, config.train_segment - length), (0, 0)])

        def middle(maps: Array, waves: Array) -> tuple[Array, Array]:
            if config.transformer is None:
                # Nothing uses these layers, which the official network has all the same.
                self._resized(*self._resized(maps, waves, "up"), "down")
                return maps, waves
            maps, waves = self._resized(maps, waves, "up")
            transformer = CrossTransformer(config.transformer, train, self.dtype, self.form, name="crosstransformer")
            maps, waves = transformer(maps, waves)
            return self._resized(maps, waves, "down")

        return separate(mixture, config, middle, self.dtype, self.form)[:, :, :length]

    def _resized(
        self, maps: Float[Array, "batch freq time channel"], waves: Float[Array, "batch step channel"], way: str
    ) -> tuple[Array, Array]:
        config = self.config
        if not config.bottom_channels:
            return maps, waves
        features = config.bottom_channels if way == "up" else config.layers()[-1].features
        batch, rows, frames, channels = maps.shape
        flat = maps.reshape(batch, -1, channels)
        flat = convolution(channels, features, (1,), dtype=self.dtype, name=f"channel_{way}sampler")(flat)
        waves = convolution(channels, features, (1,), dtype=self.dtype, name=f"channel_{way}sampler_t")(waves)
        return flat.reshape(batch, rows, frames, features), waves
