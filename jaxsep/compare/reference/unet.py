"""The PyTorch twin of `jaxsep.models.unet`: the same network in torch's own layers, channels first.

For comparisons only, with weights taken from our variables. Nothing imports this module eagerly: it needs torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from jaxsep.compare.reference.layers import MaskingNetwork, SameConvTranspose2d, norm_layer
from jaxsep.compare.twins import Twin
from jaxsep.models.spec import ModelSpec
from jaxsep.models.unet import UNetConfig
from jaxsep.typing import Variables
from jaxsep.weights.mapping import apply
from jaxsep.weights.torch_layers import layers_of_our_names
from jaxsep.weights.tree import expected_shapes, unflatten


class UNet(MaskingNetwork):
    """Spleeter's U-Net in PyTorch, (batch, channel, frame, freq) in, (batch, source, channel, frame, freq) out.

    Layers have the names of the linen module's: `source_0.encoder_1.conv` and so on. Activations work in place and
    padding is as little as the asymmetric 'same' rule allows, so that its speed is PyTorch's best.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.mask = config.mask
        for m in range(config.n_sources):
            self.add_module(f"source_{m}", _SourceNetwork(config))

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        """Returns mask times magnitude, one for each source."""
        logits = torch.stack([network(magnitude) for network in self.children()], dim=1)
        masks = torch.sigmoid(logits) if self.mask == "sigmoid" else torch.softmax(logits, dim=1)
        return masks * magnitude[:, None]


class _SourceNetwork(nn.Module):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.depth = depth = len(config.filters)
        inputs = config.channels
        for i, features in enumerate(config.filters):
            self.add_module(f"encoder_{i}", _Encoder(config, inputs, features, normalised=i < depth - 1))
            inputs = features
        for i, features in enumerate((*config.filters[-2::-1], 1)):
            self.add_module(f"decoder_{i}", _Decoder(config, inputs, features, config.dropout if i < 3 else 0.0))
            inputs = 2 * features
        self.mask = nn.Conv2d(1, config.channels, 4, dilation=2, padding=3)

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        raw, maps = [], magnitude
        for i in range(self.depth):
            convolved, maps = self.get_submodule(f"encoder_{i}")(maps)
            raw.append(convolved)
        maps = raw[-1]
        for i in range(self.depth):
            maps = self.get_submodule(f"decoder_{i}")(maps)
            if i < self.depth - 1:
                maps = torch.cat([raw[-2 - i], maps], dim=1)
        return self.mask(maps)


class _Encoder(nn.Module):
    def __init__(self, config: UNetConfig, inputs: int, features: int, *, normalised: bool) -> None:
        super().__init__()
        size = config.kernel_size
        # torch pads both ends alike, TensorFlow's 'same' rule one less before than after.
        self.pad = nn.ZeroPad2d(((size - 2) // 2, (size - 1) // 2) * 2)
        self.conv = nn.Conv2d(inputs, features, size, stride=2)
        self.norm = norm_layer(config, features) if normalised else None
        self.activation = _activation(config.encoder_activation) if normalised else None

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        convolved = self.conv(self.pad(maps))
        if self.norm is None or self.activation is None:
            return convolved, convolved
        return convolved, self.activation(self.norm(convolved))


class _Decoder(nn.Module):
    def __init__(self, config: UNetConfig, inputs: int, features: int, dropout: float) -> None:
        super().__init__()
        size = config.kernel_size
        self.conv = SameConvTranspose2d(inputs, features, size, stride=2, padding=(size - 2) // 2)
        self.activation = _activation(config.decoder_activation)
        self.norm = norm_layer(config, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(self.activation(self.conv(maps))))


def _activation(name: str) -> nn.Module:
    return {"relu": nn.ReLU(True), "leaky_relu": nn.LeakyReLU(0.2, True), "elu": nn.ELU(inplace=True)}[name]


def load_variables(network: nn.Module, variables: Variables) -> None:
    """Copies the variables of one of our U-Nets into its twin, every leaf to the layer of its name.

    Args:
        network: The twin, of the same config.
        variables: `params` and `batch_stats` of the linen module.

    Raises:
        RuntimeError: A leaf has no counterpart, or a layer no leaf (torch's own message).
    """
    network.load_state_dict(to_state_dict(variables))


def to_state_dict(tree: Variables) -> dict[str, torch.Tensor]:
    """Returns our variables, or a tree of their gradients, under torch's names and in torch's layouts.

    Every kernel, (height, width, large-map or input channel, small-map or output channel) or without a height, becomes
    torch's by the same permutation, since torch too stores a transposed convolution's weight like that of the
    convolution it transposes.
    """
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state = {}
    for collection in tree.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(collection):
            *layer, name = (entry.key for entry in path)
            array = np.array(leaf)
            if name == "kernel":
                array = np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)))
            state[".".join([*layer, names.get(name, name)])] = torch.from_numpy(array)
            if name == "mean":
                state[".".join([*layer, "num_batches_tracked"])] = torch.tensor(0)
    return state


def to_variables(network: nn.Module) -> Variables:
    """Returns the twin's weights as the variables of the linen module; the inverse of `load_variables`."""
    state = network.state_dict()
    leaves = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        array = tensor.detach().numpy()
        if kind == "weight" and array.ndim > 1:
            kind, array = "kernel", np.moveaxis(array, (0, 1), (-1, -2))
        elif kind == "weight" and f"{layer}.running_mean" in state:
            kind = "scale"
        kind = kind.removeprefix("running_")
        collection = "batch_stats" if kind in ("mean", "var") else "params"
        leaves["/".join([collection, *layer.split("."), kind])] = np.ascontiguousarray(array)
    return unflatten(leaves)


def layer_outputs(network: nn.Module, inputs: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Runs the network once and returns a copy of what every layer gives, by name ('source_0/encoder_1/norm').

    Blocks of layers are among them. Where one gives several maps, their names end in their numbers
    ('source_0/encoder_1[0]').

    Args:
        network: The twin, in whichever mode it is.
        inputs: Magnitudes (batch, channel, frame, freq) or waveforms (batch, channel, time).
    """
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            # Copies, because the next activation works in place.
            path = name.replace(".", "/")
            if isinstance(output, torch.Tensor):
                outputs[path] = output.detach().clone()
            else:
                outputs.update({f"{path}[{i}]": maps.detach().clone() for i, maps in enumerate(output)})

        return network.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name, _ in network.named_modules() if name]
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def converted(network: nn.Module, spec: ModelSpec) -> Variables:
    """Returns the weights of a twin whose layers have the names of ours, as the rules for its state dict read them."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    rules = layers_of_our_names(spec, state, [f"source_{m}." for m in range(len(spec.stems))])
    return apply(rules, state, expected_shapes(spec), where="the PyTorch twin")


def twin_of_our_names(network: Callable[[Any], nn.Module], names: str) -> Twin:
    """Returns the twin of a family of U-Nets whose layers have the names of ours.

    Args:
        network: Builds the network from a config.
        names: Says whose names its state dict has.
    """
    return Twin(
        build=lambda spec: network(spec.config),
        load_variables=load_variables,
        to_variables=to_variables,
        layer_outputs=layer_outputs,
        converted=converted,
        names=names,
    )


TWIN = twin_of_our_names(UNet, "of the twin's state dict")
