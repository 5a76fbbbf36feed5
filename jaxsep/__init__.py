"""Music source separation in JAX: published models, their published weights, the same numbers, faster.

The names below are the public ones. They are imported when they are first used, so that `import jaxsep` costs nothing
and touches no device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxsep.version import __version__

if TYPE_CHECKING:
    from jaxsep.dsp.wiener import WienerConfig as WienerConfig
    from jaxsep.errors import AudioError as AudioError
    from jaxsep.errors import CheckpointError as CheckpointError
    from jaxsep.errors import ConfigError as ConfigError
    from jaxsep.errors import JaxsepError as JaxsepError
    from jaxsep.errors import SeparationAborted as SeparationAborted
    from jaxsep.errors import SeparationError as SeparationError
    from jaxsep.models import register_family as register_family
    from jaxsep.models.ensemble import EnsembleSpec as EnsembleSpec
    from jaxsep.models.family import Family as Family
    from jaxsep.models.family import NetworkConfig as NetworkConfig
    from jaxsep.models.spec import ModelSpec as ModelSpec
    from jaxsep.separation.ensemble import Ensemble as Ensemble
    from jaxsep.separation.ensemble import EnsembleSeparator as EnsembleSeparator
    from jaxsep.separation.estimate import estimate_sources as estimate_sources
    from jaxsep.separation.mixtures import Progress as Progress
    from jaxsep.separation.models import load_model as load_model
    from jaxsep.separation.outputs import OutputConfig as OutputConfig
    from jaxsep.separation.separator import Model as Model
    from jaxsep.separation.separator import Separation as Separation
    from jaxsep.separation.separator import Separator as Separator
    from jaxsep.separation.stream import separate_file as separate_file
    from jaxsep.separation.track import FileReport as FileReport
    from jaxsep.weights.pretrained import list_models as list_models

_HOMES = {
    "AudioError": "jaxsep.errors",
    "CheckpointError": "jaxsep.errors",
    "ConfigError": "jaxsep.errors",
    "Ensemble": "jaxsep.separation.ensemble",
    "EnsembleSeparator": "jaxsep.separation.ensemble",
    "EnsembleSpec": "jaxsep.models.ensemble",
    "Family": "jaxsep.models.family",
    "FileReport": "jaxsep.separation.track",
    "JaxsepError": "jaxsep.errors",
    "Model": "jaxsep.separation.separator",
    "ModelSpec": "jaxsep.models.spec",
    "NetworkConfig": "jaxsep.models.family",
    "OutputConfig": "jaxsep.separation.outputs",
    "Progress": "jaxsep.separation.mixtures",
    "Separation": "jaxsep.separation.separator",
    "SeparationAborted": "jaxsep.errors",
    "SeparationError": "jaxsep.errors",
    "Separator": "jaxsep.separation.separator",
    "WienerConfig": "jaxsep.dsp.wiener",
    "estimate_sources": "jaxsep.separation.estimate",
    "list_models": "jaxsep.weights.pretrained",
    "load_model": "jaxsep.separation.models",
    "register_family": "jaxsep.models",
    "separate_file": "jaxsep.separation.stream",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxsep' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
