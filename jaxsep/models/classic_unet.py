"""The classic U-Net of two convolutions a block, one network for each source, from magnitudes to magnitudes.

Its layers are in `layers.py`; the transform and masks around it in `jaxsep/weights/classic_unet.py`.
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
    InputScale,
    NormalisedConvolution,
    ScaledConfig,
    ScaledUNet,
    halve,
)


class ClassicUNetConfig(ScaledConfig):
    """The shape of the network.

    Attributes:
        filters: Channels of each encoder block. Frames and bins are halved between blocks, and the last block is the
            bottom, from where the decoder starts.
        input_scale: See `layers.scaled`; a logarithm shows the quiet parts of music, of which there are many.
    """

    filters: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(32, 64, 128, 256, 512), min_length=2)
    input_scale: InputScale = "log"

    @property
    def stride(self) -> int:
        """What frames and bins must be multiples of: two to the number of filters but one."""
        return 2 ** (len(self.filters) - 1)


CLASSIC_UNET = ClassicUNetConfig(n_sources=2)

PRESETS: dict[str, ClassicUNetConfig] = {"classic-unet": CLASSIC_UNET}


class Block(nn.Module):
    """Two 3x3 convolutions, each with its norm and ReLU.

    Attributes:
        config: Of the network.
        form: How convolutions are computed.
        dtype: What the block is computed in; None for that of its parameters and maps.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
        features: Output channels of both.
    """

    config: ClassicUNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None
    features: int

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq in_channel"], *, train: bool
    ) -> Float[Array, "batch frame freq out_channel"]:
        """Convolves twice; the size stays."""
        for name in ("first", "second"):
            maps = NormalisedConvolution(
                self.config, self.form, self.dtype, self.axis_name, "same", self.features, 3, "relu", name=name
            )(maps, train=train)
        return maps


class SourceNetwork(nn.Module):
    """The network of one source: from scaled magnitudes to the logits of the source's mask.

    Attributes:
        config: The shape; `n_sources` and `input_scale` do not matter here.
        form: How convolutions are computed.
        dtype: What the network is computed in; None for that of its parameters and input.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
    """

    config: ClassicUNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq channel"], *, train: bool
    ) -> Float[Array, "batch frame freq channel"]:
        """Runs the encoder, the decoder and the mask layer."""
        config = self.config
        block = functools.partial(Block, config, self.form, self.dtype, self.axis_name)
        convolution = functools.partial(Convolution, form=self.form, dtype=self.dtype)
        encoded: list[Array] = []
        for i, features in enumerate(config.filters):
            maps = block(features, name=f"encoder_{i}")(halve(maps) if encoded else maps, train=train)
            encoded.append(maps)
        for i, skip in enumerate(encoded[-2::-1]):
            maps = convolution("up", skip.shape[-1], 2, name=f"up_{i}")(maps)
            maps = jnp.concatenate([skip, maps], axis=-1)
            maps = block(skip.shape[-1], name=f"decoder_{i}")(maps, train=train)
        return convolution("same", config.channels, 1, name="mask")(maps)


class ClassicUNet(ScaledUNet):
    """The U-Net of Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation" (2015).

    In the form that it has taken since: padded convolutions that keep the size, batch norm before every ReLU, and a 1x1
    convolution for the mask. Convolutions before a norm have no bias. Without weights of anyone's to match, sizes
    are those of mateuszbuda/brain-segmentation-pytorch: 32 channels, doubled four times.
    """

    network = nn.jit(SourceNetwork, static_argnames=("train",))

    config: ClassicUNetConfig
