"""The U-Net of Jansson et al. (2017), one network for each source, from the mixture's magnitude to those of sources.

Its layers are in `layers.py`; the transform and masks around it, and the sample rate that they are for, in
`jaxsep/weights/jansson.py`.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.layers import (
    Convolution,
    NormalisedConvolution,
    ScaledConfig,
    ScaledUNet,
    drop,
)

# Where dropout acts: after the first three decoder blocks.
_DROPOUT_BLOCKS = 3


class JanssonConfig(ScaledConfig):
    """The shape of the network; what has a default is as published.

    The paper is silent about its norms' constants: these are PyTorch's, in which its checkpoints come to us.

    Attributes:
        filters: Channels of each encoder block; every block halves frames and bins.
        kernel_size: Along frames and bins.
        dropout: Rate after the first three decoder blocks while training.
    """

    channels: int = pydantic.Field(default=1, ge=1)
    bins: int = pydantic.Field(default=512, ge=1)
    filters: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(16, 32, 64, 128, 256, 512), min_length=2)
    kernel_size: int = pydantic.Field(default=5, ge=2)
    dropout: float = pydantic.Field(default=0.5, ge=0, lt=1)

    @property
    def stride(self) -> int:
        """What frames and bins must be multiples of: two to the number of filters."""
        return 2 ** len(self.filters)


JANSSON = JanssonConfig(n_sources=2)
JANSSON_LOG = JanssonConfig(n_sources=2, input_scale="log")

PRESETS: dict[str, JanssonConfig] = {"jansson": JANSSON, "jansson-log": JANSSON_LOG}


class SourceNetwork(nn.Module):
    """The network of one source: from scaled magnitudes to the logits of the source's mask.

    Attributes:
        config: The shape; `n_sources` and `input_scale` do not matter here.
        form: How convolutions are computed.
        dtype: What the network is computed in; None for that of its parameters and input.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
    """

    config: JanssonConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq channel"], *, train: bool
    ) -> Float[Array, "batch frame freq channel"]:
        """Runs the encoder and the decoder, whose last convolution gives the mask."""
        config = self.config
        block = functools.partial(NormalisedConvolution, config, self.form, self.dtype, self.axis_name)
        encoded = []
        for i, features in enumerate(config.filters):
            maps = block("down", features, config.kernel_size, "leaky_relu", name=f"encoder_{i}")(maps, train=train)
            encoded.append(maps)
        skips = encoded[-2::-1]
        for i, skip in enumerate(skips):
            maps = block("up", skip.shape[-1], config.kernel_size, "relu", name=f"decoder_{i}")(maps, train=train)
            maps = drop(maps, config.dropout if i < _DROPOUT_BLOCKS else 0.0, train=train)
            maps = jnp.concatenate([skip, maps], axis=-1)
        return Convolution("up", config.channels, config.kernel_size, self.form, self.dtype, name="mask")(maps)


class JanssonUNet(ScaledUNet):
    """The U-Nets of Jansson et al., "Singing voice separation with deep U-Net convolutional networks" (ISMIR 2017).

    Strided 5x5 convolutions, batch norm before every activation, skips from behind the activations, the mask straight
    from the last transposed convolution. Convolutions before a norm have no bias. 'Same' padding is TensorFlow's, as in
    the U-Net of f90/Wave-U-Net. Made for audio of 8192 Hz: nothing above 4096 Hz can be in its stems.
    """

    network = nn.jit(SourceNetwork, static_argnames=("train",))

    config: JanssonConfig
