"""Spleeter's U-Net: one network per source, from the magnitude of a mixture to the magnitudes of its sources.

Its layers are in `layers.py`, the forms of its convolutions in `convolutions.py`; the transform, ratio masks and filter
around it are in `jaxsep.separation`.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.layers import (
    Activation,
    Convolution,
    MaskingConfig,
    activate,
    batch_norm,
    drop,
    mask_mixture,
    to_maps,
)
from jaxsep.typing import Magnitude, SourceMagnitude

# Where dropout acts: after the first three decoder blocks, as in Jansson et al. (2017).
_DROPOUT_BLOCKS = 3


class UNetConfig(MaskingConfig):
    """The shape of a U-Net and of its masks.

    Attributes:
        filters: Channels of each encoder block; every block halves frames and bins.
        kernel_size: Of the strided and transposed convolutions, along frames and bins.
        encoder_activation: After each encoder block's norm. The leaky slope is 0.2.
        decoder_activation: Before each decoder block's norm.
        mask: 'sigmoid' masks each source by itself, 'softmax' makes the masks of all sources sum to one.
        dropout: Rate after the first three decoder blocks while training.
    """

    filters: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(16, 32, 64, 128, 256, 512), min_length=2)
    kernel_size: int = pydantic.Field(default=5, ge=2)
    encoder_activation: Activation = "leaky_relu"
    decoder_activation: Activation = "relu"
    mask: Literal["sigmoid", "softmax"] = "sigmoid"
    dropout: float = pydantic.Field(default=0.5, ge=0, lt=1)
    # Keras's.
    norm_epsilon: float = pydantic.Field(default=1e-3, gt=0)
    norm_momentum: float = pydantic.Field(default=0.99, ge=0, le=1)

    @property
    def stride(self) -> int:
        """What frames and bins must be multiples of: two to the number of filters."""
        return 2 ** len(self.filters)

    @pydantic.model_validator(mode="after")
    def _a_softmax_chooses_among_sources(self) -> "UNetConfig":
        if self.mask == "softmax" and self.n_sources < 2:
            raise ValueError("a softmax over one source is always one; use mask 'sigmoid' or more sources")
        return self


def _published(n_sources: int, activations: tuple[Activation, Activation], **changes: object) -> UNetConfig:
    encoder, decoder = activations
    # The published checkpoints hold mean 0 and variance 1 in every norm: they were trained with batch statistics off,
    # and re-estimating them destroys the model.
    return UNetConfig.parse(
        {
            "n_sources": n_sources,
            "encoder_activation": encoder,
            "decoder_activation": decoder,
            "batch_statistics": False,
            **changes,
        },
        where="a published form",
    )


# The forms that Spleeter publishes. '16kHz' is up to where the network sees the spectrum (1536 bins of
# 44.1 kHz / 4096); the weights are those of the plain form.
SPLEETER_2STEMS = _published(2, ("leaky_relu", "relu"))
SPLEETER_4STEMS = _published(4, ("elu", "elu"))
SPLEETER_5STEMS = _published(5, ("elu", "elu"), mask="softmax")
SPLEETER_2STEMS_16KHZ = _published(2, ("leaky_relu", "relu"), bins=1536)
SPLEETER_4STEMS_16KHZ = _published(4, ("elu", "elu"), bins=1536)
SPLEETER_5STEMS_16KHZ = _published(5, ("elu", "elu"), mask="softmax", bins=1536)
# Spleeter's recipe for training on MUSDB18 from nothing: the four-stem form.
SPLEETER_MUSDB = SPLEETER_4STEMS

PRESETS: dict[str, UNetConfig] = {
    "2stems": SPLEETER_2STEMS,
    "4stems": SPLEETER_4STEMS,
    "5stems": SPLEETER_5STEMS,
    "2stems-16kHz": SPLEETER_2STEMS_16KHZ,
    "4stems-16kHz": SPLEETER_4STEMS_16KHZ,
    "5stems-16kHz": SPLEETER_5STEMS_16KHZ,
    "musdb_config": SPLEETER_MUSDB,
}


class SourceNetwork(nn.Module):
    """The U-Net of one source: from the mixture's magnitude to the logits of the source's mask.

    Attributes:
        config: The shape; `n_sources` and `mask` do not matter here.
        form: How convolutions are computed.
        dtype: What the network is computed in; None for that of its parameters and input.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
    """

    config: UNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None

    @nn.compact
    def __call__(
        self, magnitude: Float[Array, "batch frame freq channel"], *, train: bool
    ) -> Float[Array, "batch frame freq channel"]:
        """Runs the encoder, the decoder and the mask layer."""
        config = self.config
        depth = len(config.filters)
        raw = []
        maps = magnitude
        for i, features in enumerate(config.filters):
            # The last block's norm and activation would go nowhere: the decoder starts from its raw convolution.
            encoder = Encoder(
                config, self.form, self.dtype, self.axis_name, features, i < depth - 1, name=f"encoder_{i}"
            )
            convolved, maps = encoder(maps, train=train)
            raw.append(convolved)
        for i, features in enumerate((*config.filters[-2::-1], 1)):
            rate = config.dropout if i < _DROPOUT_BLOCKS else 0.0
            decoder = Decoder(config, self.form, self.dtype, self.axis_name, features, rate, name=f"decoder_{i}")
            decoded = decoder(raw[-1] if i == 0 else maps, train=train)
            maps = decoded if i == depth - 1 else jnp.concatenate([raw[-2 - i], decoded], axis=-1)
        return Convolution("mask", config.channels, 4, self.form, self.dtype, name="mask")(maps)


class Encoder(nn.Module):
    """One encoder block: a strided convolution, then batch norm and activation.

    Attributes:
        config: The shape of the network.
        form: How the convolution is computed.
        dtype: What the block is computed in.
        axis_name: The pmapped axis over which batch statistics are averaged.
        features: Output channels.
        normalised: Whether the norm and activation are computed at all.
    """

    config: UNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None
    features: int
    normalised: bool

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq in_channel"], *, train: bool
    ) -> tuple[Float[Array, "batch frame/2 freq/2 out_channel"], Float[Array, "batch frame/2 freq/2 out_channel"]]:
        """Returns the raw convolution, which is what the decoder gets, and what the next block gets."""
        size = self.config.kernel_size
        convolved = Convolution("down", self.features, size, self.form, self.dtype, name="conv")(maps)
        if not self.normalised:
            return convolved, convolved
        normalised = batch_norm(self.config, self.dtype, self.axis_name, train=train)(convolved)
        return convolved, activate(normalised, self.config.encoder_activation)


class Decoder(nn.Module):
    """One decoder block: a transposed convolution, then activation, batch norm and dropout, in this order.

    Attributes:
        config: The shape of the network.
        form: How the convolution is computed.
        dtype: What the block is computed in.
        axis_name: The pmapped axis over which batch statistics are averaged.
        features: Output channels.
        dropout: Rate while training.
    """

    config: UNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None
    features: int
    dropout: float

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq in_channel"], *, train: bool
    ) -> Float[Array, "batch 2*frame 2*freq out_channel"]:
        """Doubles frames and bins."""
        size = self.config.kernel_size
        convolved = Convolution("up", self.features, size, self.form, self.dtype, name="conv")(maps)
        activated = activate(convolved, self.config.decoder_activation)
        normalised = batch_norm(self.config, self.dtype, self.axis_name, train=train)(activated)
        return drop(normalised, self.dropout, train=train)


# Traced and lowered once for all sources: half of what `jaxsep separate` spends on it with two of them.
_TracedOnce = nn.jit(SourceNetwork, static_argnames=("train",))


class UNet(nn.Module):
    """Spleeter's separation network: one U-Net per source, whose masks multiply the mixture's magnitude.

    Follows Hennequin et al., "Spleeter: a fast and efficient music source separation tool with pre-trained models"
    (2020) and its code, `spleeter/model/functions/unet.py`, but for one thing: the original computes the norm of the
    sixth encoder block and drops the result, so this one has no such norm.

    Attributes:
        config: The shape of the network.
        form: How convolutions are computed: 'auto' for what is fastest on the platform that it is compiled for,
            'native' for XLA's own, 'cpu' for the forms that are fast on CPUs.
        dtype: What the network is computed in; None for that of its parameters and input. Parameters are float32.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
    """

    config: UNetConfig
    form: ConvolutionForm = "auto"
    dtype: DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, magnitude: Magnitude, *, train: bool) -> SourceMagnitude:
        """Estimates the magnitude of each source.

        Args:
            magnitude: Of the mixture's STFT, bins from 0 Hz up; linear, not scaled. Frames a multiple of
                `config.stride`.
            train: Whether dropout acts (from the 'dropout' key) and norms use and update their batch statistics.

        Returns:
            Mask times magnitude, one for each source.

        Raises:
            ConfigError: Frames, bins or channels are not what the config asks for.
        """
        config = self.config
        maps = to_maps(magnitude, config)
        logits = [
            _TracedOnce(config, self.form, self.dtype, self.axis_name, name=f"source_{m}")(maps, train=train)
            for m in range(config.n_sources)
        ]
        stacked = jnp.stack(logits, axis=1)
        masks = jax.nn.sigmoid(stacked) if config.mask == "sigmoid" else jax.nn.softmax(stacked, axis=1)
        return mask_mixture(masks, magnitude)
