"""The model families, one file each: a config, a linen module and its published forms.

`FAMILIES` names those that come with jaxsep. Published configs are in each family's file, by name in its `PRESETS`.
Weights are in `jaxsep.weights`.
"""

from collections.abc import Callable
from importlib import metadata
from typing import Any, Literal

import flax.linen as nn

from jaxsep.config import Config
from jaxsep.dsp.cuts import Chunking, WholeTrack
from jaxsep.errors import ConfigError, nearest
from jaxsep.models.classic_unet import ClassicUNet, ClassicUNetConfig
from jaxsep.models.cutting import whole_frames, whole_outputs
from jaxsep.models.demucs_v2 import DemucsV2, DemucsV2Config
from jaxsep.models.demucs_v3 import DemucsV3, DemucsV3Config
from jaxsep.models.domain import Domain, Magnitude, Waveform
from jaxsep.models.ensemble import EnsembleSpec
from jaxsep.models.family import Family, FamilyConfig, NetworkConfig, SpectralConfig
from jaxsep.models.hdemucs import HDemucs, HDemucsConfig
from jaxsep.models.htdemucs import HTDemucs, HTDemucsConfig
from jaxsep.models.jansson import JanssonConfig, JanssonUNet
from jaxsep.models.procedure import Normalise, Procedure
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNet, UNetConfig
from jaxsep.models.wave_unet import WaveUNet, WaveUNetConfig
from jaxsep.models.wave_unet_resampled import ResampledWaveUNet, ResampledWaveUNetConfig

__all__ = [
    "FAMILIES",
    "Chunking",
    "ClassicUNet",
    "ClassicUNetConfig",
    "DemucsV2",
    "DemucsV2Config",
    "DemucsV3",
    "DemucsV3Config",
    "Domain",
    "EnsembleSpec",
    "Family",
    "FamilyConfig",
    "HDemucs",
    "HDemucsConfig",
    "HTDemucs",
    "HTDemucsConfig",
    "JanssonConfig",
    "JanssonUNet",
    "Magnitude",
    "ModelSpec",
    "NetworkConfig",
    "Normalise",
    "Procedure",
    "ResampledWaveUNet",
    "ResampledWaveUNetConfig",
    "SpectralConfig",
    "UNet",
    "UNetConfig",
    "WaveUNet",
    "WaveUNetConfig",
    "Waveform",
    "WholeTrack",
    "find_family",
    "register_family",
    "whole_frames",
    "whole_outputs",
]

# Layers of all kinds of Demucs.
_CODERS = ("encoder_*", "decoder_*")
_HYBRID_CODERS = (*_CODERS, "tencoder_*", "tdecoder_*")

FAMILIES: dict[str, Family] = {
    "unet": Family(UNetConfig, UNet, "magnitude", is_builtin=True),
    "jansson": Family(JanssonConfig, JanssonUNet, "magnitude", is_builtin=True),
    "classic_unet": Family(ClassicUNetConfig, ClassicUNet, "magnitude", is_builtin=True),
    "wave_unet": Family(WaveUNetConfig, WaveUNet, "waveform", is_builtin=True),
    "wave_unet_resampled": Family(ResampledWaveUNetConfig, ResampledWaveUNet, "waveform", is_builtin=True),
    "demucs_v2": Family(DemucsV2Config, DemucsV2, "waveform", is_builtin=True, layers=(*_CODERS, "lstm")),
    "demucs_v3": Family(DemucsV3Config, DemucsV3, "waveform", is_builtin=True, layers=(*_CODERS, "lstm")),
    "hdemucs": Family(HDemucsConfig, HDemucs, "waveform", is_builtin=True, layers=_HYBRID_CODERS),
    "htdemucs": Family(
        HTDemucsConfig, HTDemucs, "waveform", is_builtin=True, layers=(*_HYBRID_CODERS, "crosstransformer/layers_*")
    ),
}

# Where other packages say which families they bring: an entry point's name is the family's, its value a `Family`.
ENTRY_POINTS = "jaxsep.families"
_registered: dict[str, Family] = {}


def register_family(
    name: str,
    *,
    config: type[Config],
    module: Callable[..., nn.Module],
    domain: Literal["waveform", "magnitude"] = "waveform",
    recognise: Callable[..., Any] | None = None,
) -> Family:
    """Makes a family of your own known to this process.

    Another package does the same for every process by an entry point of the group `jaxsep.families`, which names a
    `Family`. Programs of such families are not kept on disk: what keeps them knows jaxsep's source alone.

    Args:
        name: Name of the family, as in `ModelSpec.family`.
        config: Class of its configs, best derived from `NetworkConfig`; see `FamilyConfig`.
        module: Its linen module; see `Family`.
        domain: What it maps: 'waveform' or 'magnitude'.
        recognise: Rules for weights of another program, for `jaxsep.weights.convert`; see `Family`.

    Raises:
        ConfigError: jaxsep has a family of that name, or another one was registered.
    """
    family = Family(config, module, domain, recognise)
    if name in FAMILIES or _registered.get(name, family) != family:
        raise ConfigError(f"There is a model family '{name}' already; give yours another name.")
    _registered[name] = family
    return family


def find_family(name: str) -> Family:
    """Returns the family of that name: one of jaxsep's, a registered one, or that of an entry point.

    Raises:
        ConfigError: There is none, or its entry point cannot be loaded.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if name not in _registered:
        entry_points = metadata.entry_points(group=ENTRY_POINTS)
        if name not in entry_points.names:
            known = {*FAMILIES, *_registered, *entry_points.names}
            raise ConfigError(f"there is no model family '{name}'.{nearest(name, known)}")
        try:
            loaded = entry_points[name].load()
        except Exception as error:  # another package's code, which may fail in any way
            raise ConfigError(f"the model family '{name}' cannot be loaded: {type(error).__name__}: {error}") from None
        if not isinstance(loaded, Family):
            raise ConfigError(f"the entry point of the model family '{name}' is no `jaxsep.models.Family`")
        _registered[name] = loaded._replace(is_builtin=False)
    return _registered[name]
