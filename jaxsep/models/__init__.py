"""The model families, one file each: a config, a linen module and presets.

`FAMILIES` names them all. Weights are in `jaxsep.weights`; the transforms around a network in `jaxsep.separation`.
"""

from typing import Literal, NamedTuple

import flax.linen as nn

from jaxsep.config import Config
from jaxsep.models.classic_unet import ClassicUNet, ClassicUNetConfig
from jaxsep.models.jansson import JanssonConfig, JanssonUNet
from jaxsep.models.unet import UNet, UNetConfig
from jaxsep.models.wave_unet import WaveUNet, WaveUNetConfig
from jaxsep.models.wave_unet_resampled import ResampledWaveUNet, ResampledWaveUNetConfig


class Family(NamedTuple):
    """What the rest of jaxsep knows of a model family.

    Attributes:
        config: The class of its configs.
        module: The linen module, built as `module(config)`, called as `module.apply(variables, mixture, train=...)`.
        domain: What the module maps to those of the sources: magnitudes of an STFT, or waveforms.
    """

    config: type[Config]
    module: type[nn.Module]
    domain: Literal["magnitude", "waveform"]


FAMILIES: dict[str, Family] = {
    "unet": Family(UNetConfig, UNet, "magnitude"),
    "jansson": Family(JanssonConfig, JanssonUNet, "magnitude"),
    "classic_unet": Family(ClassicUNetConfig, ClassicUNet, "magnitude"),
    "wave_unet": Family(WaveUNetConfig, WaveUNet, "waveform"),
    "wave_unet_resampled": Family(ResampledWaveUNetConfig, ResampledWaveUNet, "waveform"),
}
