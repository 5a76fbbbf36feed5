"""The official networks of Demucs, built with a model's weights, as the PyTorch twins of its families.

They come from the package `demucs` where it is installed (pip install demucs): 4.x for the families of Demucs 3 and 4,
2.x for those of Demucs v2. Nothing imports this module eagerly: it needs torch.
"""

import importlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from jaxsep.compare.twins import Twin
from jaxsep.errors import ConfigError
from jaxsep.models.spec import ModelSpec
from jaxsep.typing import Variables
from jaxsep.weights.demucs import constructor_of, demucs_config
from jaxsep.weights.demucs_names import demucs_rules, foreign_name, state_dict
from jaxsep.weights.mapping import apply
from jaxsep.weights.tree import expected_shapes


class OfficialNetwork(nn.Module):
    """An official network, with the spec that it was built for.

    Args:
        spec: Spec of the model.

    Raises:
        ConfigError: The package is not installed, or is of another version.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        klass, arguments = constructor_of(spec)
        module, _, name = klass.rpartition(".")
        try:
            network = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            version = "'demucs<3'" if spec.family == "demucs_v2" else "'demucs>=4'"
            raise ConfigError(
                f"The official network of '{spec.name}' is not here ({error}); pip install {version}."
            ) from None
        self.network = network(**arguments)

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        """Returns estimates (batch, source, channel, time) of mixtures (batch, channel, time)."""
        return self.network(mixture)


def load_variables(network: OfficialNetwork, variables: Variables) -> None:
    """Copies our variables into a network."""
    state = state_dict(demucs_config(network.spec), variables)
    network.network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})


def to_variables(network: OfficialNetwork) -> Variables:
    """Returns a network's weights as our variables."""
    shapes = expected_shapes(network.spec)
    state = {name: tensor.detach().numpy() for name, tensor in network.network.state_dict().items()}
    return apply(demucs_rules(demucs_config(network.spec), shapes), state, shapes, where="the official network")


def layer_outputs(network: OfficialNetwork, inputs: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Returns what every convolution outside of the transformer gives, by the name of ours."""
    names = {}
    for path in expected_shapes(network.spec):
        *layer, leaf = path.removeprefix("params/").split("/")
        if leaf == "kernel" and layer[0] != "crosstransformer" and "lstm" not in layer:
            names[foreign_name(path, demucs_config(network.spec)).rpartition(".")[0]] = "/".join(layer)
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        network.network.get_submodule(theirs).register_forward_hook(
            lambda module, given, output, ours=ours: outputs.update({ours: output.detach().clone()})
        )
        for theirs, ours in names.items()
    ]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def converted(network: OfficialNetwork, spec: ModelSpec) -> Variables:
    """Returns a network's weights as `jaxsep convert` reads them."""
    return to_variables(network)


TWIN = Twin(
    build=OfficialNetwork,
    load_variables=load_variables,
    to_variables=to_variables,
    layer_outputs=layer_outputs,
    converted=converted,
    names="of Demucs's state dicts",
)
