"""What all kinds of Demucs state about their networks, under the names of Demucs's own constructors.

Each kind's own file adds what it alone has, and its defaults.
"""

from typing import Literal

import pydantic

from jaxsep.models.demucs_layers import DConvConfig
from jaxsep.models.family import NetworkConfig


class DemucsConfig(NetworkConfig):
    """The shape of a network of Demucs's.

    Attributes:
        features: Channels of the first layer, which Demucs calls channels, and `channels` audio_channels.
        growth: Channels of a layer over those of the one outside.
        depth: Number of layers.
        rewrite: Whether layers have gated convolutions.
        kernel_size: Size of kernels.
        stride: Step of kernels.
        rescale: Deviation that first values of kernels are pulled to; 0 leaves them.
    """

    n_sources: int = pydantic.Field(default=4, ge=1)
    features: int = pydantic.Field(default=64, ge=1, le=1 << 16)
    growth: float = pydantic.Field(default=2.0, ge=0.1, le=16)
    depth: int = pydantic.Field(default=6, ge=1, le=16)
    rewrite: bool = True
    kernel_size: int = pydantic.Field(default=8, ge=1, le=1024)
    stride: int = pydantic.Field(default=4, ge=1, le=1024)
    rescale: float = pydantic.Field(default=0.1, ge=0)


class WaveformDemucsConfig(DemucsConfig):
    """The shape of a network that hears waveforms alone.

    Attributes:
        lstm_layers: Layers of an LSTM between encoder and decoder; 0 for none.
        normalize: Whether each input is brought to mean 0 and deviation 1.
        resample: Whether the network runs at twice the rate.
    """

    lstm_layers: int = pydantic.Field(default=0, ge=0, le=16)
    normalize: bool = True
    resample: bool = True

    def layer_features(self) -> tuple[int, ...]:
        """Returns the channels of each layer, from the outermost one."""
        found = [self.features]
        for _ in range(self.depth - 1):
            found.append(int(self.growth * found[-1]))
        return tuple(found)


class BranchedDemucsConfig(DemucsConfig):
    """The shape of a network with norms and residual branches.

    Attributes:
        norm_starts: First layer with group norms.
        norm_groups: Groups of group norms.
        dconv_mode: Where residual branches are: 1 in the encoder, 2 in the decoder, 3 in both.
        dconv_depth: Steps of a residual branch.
        dconv_comp: Channels of a layer over those of its branch.
        dconv_attn: First layer with attention in its branch.
        dconv_lstm: First layer with an LSTM in its branch.
        dconv_init: First value of the branches' scales.
    """

    norm_starts: int = pydantic.Field(default=4, ge=0)
    norm_groups: int = pydantic.Field(default=4, ge=1)
    dconv_mode: Literal[0, 1, 2, 3] = 1
    dconv_depth: int = pydantic.Field(default=2, ge=0, le=16)
    dconv_comp: float = pydantic.Field(default=4.0, gt=0)
    dconv_attn: int = pydantic.Field(default=4, ge=0)
    dconv_lstm: int = pydantic.Field(default=4, ge=0)
    dconv_init: float = 1e-4

    def branch(self, index: int) -> DConvConfig:
        """Returns the residual branch of a layer, counted from the outermost one."""
        return DConvConfig(
            compress=self.dconv_comp,
            depth=self.dconv_depth,
            init=self.dconv_init,
            attention=index >= self.dconv_attn,
            lstm=index >= self.dconv_lstm,
        )
