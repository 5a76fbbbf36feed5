"""The twins: our networks in other frameworks. `TWINS`, one literal dict, names the module of each.

The twins themselves are in `reference/`, each in a module that needs its framework and is imported when it is built.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsep.errors import ConfigError
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import Variables

# What layers give, by the names of ours: 'source_0/encoder_1/conv'; of several maps that one layer gives '...[0]'.
Layers = dict[str, np.ndarray]

# The module below `jaxsep.compare.reference` that has a family's `TWIN`, by family and framework.
TWINS: dict[str, dict[str, str]] = {
    "unet": {"torch": "unet", "tensorflow": "unet_keras"},
    "jansson": {"torch": "jansson"},
    "classic_unet": {"torch": "classic_unet"},
    "wave_unet": {"torch": "wave_unet", "tensorflow": "wave_unet_keras"},
    "wave_unet_resampled": {"torch": "wave_unet_resampled"},
    "demucs_v2": {"torch": "demucs"},
    "demucs_v3": {"torch": "demucs"},
    "hdemucs": {"torch": "demucs"},
    "htdemucs": {"torch": "demucs"},
}

# What the frameworks of twins are called, by the names of their packages.
TWIN_FRAMEWORKS = {"torch": "PyTorch", "tensorflow": "TensorFlow"}


def as_they_are(layers: Layers, spec: ModelSpec, variables: Variables) -> Layers:
    """Returns the layers of a twin that gives what ours gives."""
    return layers


@dataclass(frozen=True)
class Twin:
    """The twin of a family in a framework. Networks are of the framework's own class.

    Attributes:
        build: Returns the network of a spec, with any weights.
        load_variables: Copies our variables into a network.
        to_variables: Returns a network's weights as our variables.
        layer_outputs: Returns what each layer gives for an input in the framework's layout, by the name of our layer.
        converted: Returns a network's weights as the rules of `jaxsep convert` read them, or why there are no rules.
        names: Says whose names `converted` takes.
        layers_like_ours: Returns layers, channels last, as ours give them, where a twin computes more or less in one;
            called with the spec and the network's variables.
    """

    build: Callable[[ModelSpec], Any]
    load_variables: Callable[[Any, Variables], None]
    to_variables: Callable[[Any], Variables]
    layer_outputs: Callable[[Any, Any], Mapping[str, Any]]
    converted: Callable[[Any, ModelSpec], Variables | str]
    names: str
    layers_like_ours: Callable[[Layers, ModelSpec, Variables], Layers] = as_they_are


def build_twin(spec: ModelSpec, variables: Variables, framework: str) -> tuple[Any, Twin]:
    """Returns the twin of a model with its weights, and what exchanges weights with it.

    Args:
        spec: Spec of the model.
        variables: Variables of the model.
        framework: 'torch' or 'tensorflow'.

    Raises:
        ConfigError: The family has no twin in that framework.
    """
    check_twin(spec, framework)
    module = importlib.import_module(f"jaxsep.compare.reference.{TWINS[spec.family][framework]}")
    twin: Twin = module.TWIN
    network = twin.build(spec)
    twin.load_variables(network, variables)
    return network, twin


def check_twin(spec: ModelSpec, framework: str) -> None:
    """Refuses a family without a twin; arguments are those of `build_twin`.

    Raises:
        ConfigError: The family has none in that framework.
    """
    if framework not in TWINS.get(spec.family, {}):
        known = ", ".join(family for family, modules in TWINS.items() if framework in modules)
        raise ConfigError(
            f"The family '{spec.family}' has no twin in {TWIN_FRAMEWORKS[framework]}; those that have one: {known}."
        )
