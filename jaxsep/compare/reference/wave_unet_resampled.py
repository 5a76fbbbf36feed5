"""The PyTorch twin of `jaxsep.models.wave_unet_resampled`, in torch's own layers, channels first.

Its state dicts have the names and shapes of those of f90/Wave-U-Net-Pytorch, which they can be exchanged with. Nothing
imports this module eagerly: it needs torch.
"""

import os
from collections.abc import Callable, Mapping

import jax
import numpy as np
import torch
from torch import nn

from jaxsep.compare.reference import unet
from jaxsep.compare.reference.wave_unet import centre_crop
from jaxsep.compare.twins import Layers, Twin
from jaxsep.models.spec import ModelSpec
from jaxsep.models.wave_unet_resampled import NORM_CHANNELS, TAPS, ResampledWaveUNetConfig, low_pass
from jaxsep.typing import Variables
from jaxsep.weights.mapping import apply
from jaxsep.weights.tree import expected_shapes, flatten, unflatten
from jaxsep.weights.wave_unet_resampled import of_all_channels, time_axis_first, torch_names, torch_rules


class ResampledWaveUNet(nn.Module):
    """The redesigned Wave-U-Net in PyTorch, (batch, channel, time) in, (batch, source, channel, time) out.

    Args:
        config: The shape, as for ours.
        stems: The instruments, by which networks are called.
    """

    def __init__(self, config: ResampledWaveUNetConfig, stems: tuple[str, ...]) -> None:
        super().__init__()
        self.config, self.stems = config, stems
        outputs = config.channels if config.separate else config.channels * len(stems)
        networks = stems if config.separate else ("ALL",)
        self.waveunets = nn.ModuleDict({name: _Network(config, outputs) for name in networks})

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        """Returns the estimates."""
        found = [network(mixture) for network in self.waveunets.values()]
        estimates = torch.cat(found, dim=1).unflatten(1, (len(self.stems), self.config.channels))
        return estimates if self.training else estimates.clamp(-1, 1)


class _Network(nn.Module):
    def __init__(self, config: ResampledWaveUNetConfig, outputs: int) -> None:
        super().__init__()
        self.downsampling_blocks, self.upsampling_blocks = nn.ModuleList(), nn.ModuleList()
        inputs = config.channels
        for features, deeper in zip(config.filters, config.filters[1:], strict=False):
            block = nn.Module()
            block.pre_shortcut_convs = nn.ModuleList([_Block(config, inputs, features)])
            block.post_shortcut_convs = nn.ModuleList([_Block(config, features, deeper)])
            block.downconv = _Downsampling(deeper, config.stride)
            self.downsampling_blocks.append(block)
            inputs = deeper
        self.bottlenecks = nn.ModuleList([_Block(config, inputs, inputs)])
        for features in config.filters[-2::-1]:
            block = nn.Module()
            block.upconv = _Upsampling(inputs, config.stride)
            block.pre_shortcut_convs = nn.ModuleList([_Block(config, inputs, features)])
            block.post_shortcut_convs = nn.ModuleList([_Block(config, 2 * features, features)])
            self.upsampling_blocks.append(block)
            inputs = features
        self.output_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.downsampling_blocks:
            maps = block.get_submodule("pre_shortcut_convs.0")(maps)
            skips.append(maps)
            maps = block.get_submodule("downconv")(block.get_submodule("post_shortcut_convs.0")(maps))
        maps = self.bottlenecks[0](maps)
        for block in self.upsampling_blocks:
            maps = block.get_submodule("pre_shortcut_convs.0")(block.get_submodule("upconv")(maps))
            maps = torch.cat([centre_crop(skips.pop(), maps.shape[-1]), maps], dim=1)
            maps = block.get_submodule("post_shortcut_convs.0")(maps)
        return self.output_conv(maps)


class _Block(nn.Module):
    def __init__(self, config: ResampledWaveUNetConfig, inputs: int, features: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(inputs, features, config.kernel_size)
        self.norm = nn.GroupNorm(features // NORM_CHANNELS, features, eps=config.norm_epsilon)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.filter(maps)))


class _Resampling(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.channels = stride, channels
        taps = torch.from_numpy(low_pass(stride)).repeat(channels, 1, 1)
        self.filter = nn.Parameter(taps, requires_grad=False)

    def reflected(self, maps: torch.Tensor) -> torch.Tensor:
        """Returns the maps with their mirror images at both ends."""
        return nn.functional.pad(maps, (TAPS // 2, TAPS // 2), mode="reflect")


class _Downsampling(_Resampling):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv1d(self.reflected(maps), self.filter, stride=self.stride, groups=self.channels)


class _Upsampling(_Resampling):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        length = (maps.shape[-1] - 1) * self.stride + 1
        spread = nn.functional.conv_transpose1d(
            self.reflected(maps), self.filter, stride=self.stride, groups=self.channels
        )
        return centre_crop(spread, length)


def load_variables(network: ResampledWaveUNet, variables: Variables) -> None:
    """Copies our variables into the twin, every leaf to the layer of its name.

    Args:
        network: The twin, of the same config.
        variables: Those of the linen module.

    Raises:
        RuntimeError: A leaf has no counterpart, or a layer no leaf (torch's own message).
    """
    channels = {name: len(parameter) for name, parameter in network.named_parameters()}
    state = to_state_dict(network, variables)
    network.load_state_dict({name: _of_all_channels(leaf, channels.get(name, 0)) for name, leaf in state.items()})


def to_state_dict(network: ResampledWaveUNet, tree: Variables) -> dict[str, torch.Tensor]:
    """Returns our variables, or a tree of their gradients, under torch's names; one filter for all channels.

    Args:
        network: The twin.
        tree: {"params": ...}.
    """
    names = torch_names(network.config, network.stems)
    state = {}
    for path, leaf in flatten(jax.device_get(tree)).items():
        array = np.array(leaf)
        layout = array.transpose(2, 1, 0) if path.endswith("kernel") else array
        state[names[path]] = torch.from_numpy(np.ascontiguousarray(layout))
    return state


def to_variables(network: ResampledWaveUNet) -> Variables:
    """Returns the twin's weights as the variables of the linen module; the inverse of `load_variables`.

    Raises:
        ValueError: The filters of different channels of a layer differ.
    """
    state = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    back = {"kernel": time_axis_first, "filter": of_all_channels}
    leaves = {}
    for path, name in torch_names(network.config, network.stems).items():
        transform = back.get(path.rpartition("/")[2], np.asarray)
        leaves[path] = np.ascontiguousarray(transform(state[name]))
    return unflatten(leaves)


def layer_outputs(network: ResampledWaveUNet, mixture: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Runs the network once and returns a copy of what every layer gives, by the name of our layer.

    Args:
        network: The twin, in whichever mode it is.
        mixture: (batch, channel, time).
    """
    found = unet.layer_outputs(network, mixture)
    ours_by_theirs = {}
    for path, name in torch_names(network.config, network.stems).items():
        ours, theirs = path.removeprefix("params/").split("/")[:-1], name.split(".")[:-1]
        ours_by_theirs["/".join(theirs)] = "/".join(ours)
        if ours[-1] == "norm":
            # The block, which ends with a rectifier.
            ours_by_theirs["/".join(theirs[:-1])] = "/".join(ours[:-1])
    return {ours_by_theirs[name]: maps for name, maps in found.items() if name in ours_by_theirs}


def save_as_published(network: ResampledWaveUNet, path: str | os.PathLike[str], *, parallel: bool = False) -> None:
    """Writes what model/utils.py of f90/Wave-U-Net-Pytorch writes after an epoch.

    Args:
        network: The twin.
        path: The file.
        parallel: Whether names begin as those of a network that was trained on several devices.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    prefix = "module." if parallel else ""
    torch.save(
        {
            "model_state_dict": {prefix + name: tensor for name, tensor in network.state_dict().items()},
            "optimizer_state_dict": optimizer.state_dict(),
            "state": {"step": 7, "worse_epochs": 0, "epochs": 1, "best_loss": 0.25},
        },
        path,
    )


def separate_as_published(
    network: Callable[[torch.Tensor], torch.Tensor], mixture: np.ndarray, input_length: int, output_length: int
) -> np.ndarray:
    """Separates a track at the network's own rate by the loop of the official test.py.

    Args:
        network: (1, channel, input_length) to (1, source, channel, output_length).
        mixture: (time, channel).
        input_length: That the network takes.
        output_length: That it gives.

    Returns:
        Estimates (source, time, channel).
    """
    context = (input_length - output_length) // 2
    padded = np.pad(mixture, [(context, context + -len(mixture) % output_length), (0, 0)])
    estimates = []
    for position in range(0, len(mixture), output_length):
        part = torch.from_numpy(padded[position : position + input_length].T[None].copy())
        with torch.inference_mode():
            estimates.append(network(part)[0].numpy().swapaxes(-1, -2))
    return np.concatenate(estimates, axis=1)[:, : len(mixture)]


def _of_all_channels(leaf: torch.Tensor, channels: int) -> torch.Tensor:
    return leaf.repeat(channels, 1, 1) if leaf.shape == (TAPS,) else leaf


def build(spec: ModelSpec) -> ResampledWaveUNet:
    """Returns the twin of a model; its networks are called after the stems."""
    return ResampledWaveUNet(_config_of(spec), spec.stems)


def converted(network: ResampledWaveUNet, spec: ModelSpec) -> Variables:
    """Returns the twin's weights as the rules for the redesign's state dicts read them."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    rules = torch_rules(_config_of(spec), spec.stems)
    return apply(rules, state, expected_shapes(spec), where="the PyTorch twin")


def layers_like_ours(found: Layers, spec: ModelSpec, variables: Variables) -> Layers:
    """Returns the twin's layers as ours give them: convolutions leave the bias to the norm, and norms rectify."""
    biases = flatten(variables)
    layers: Layers = {}
    for name, maps in found.items():
        if name.endswith("/conv"):
            layers[f"{name}[0]"] = maps - biases[f"params/{name}/bias"]
        else:
            layers[name] = np.maximum(maps, 0) if name.endswith("/norm") else maps
    return layers


def _config_of(spec: ModelSpec) -> ResampledWaveUNetConfig:
    assert isinstance(spec.config, ResampledWaveUNetConfig)
    return spec.config


TWIN = Twin(
    build=build,
    load_variables=load_variables,
    to_variables=to_variables,
    layer_outputs=layer_outputs,
    converted=converted,
    names="of f90/Wave-U-Net-Pytorch's state dicts",
    layers_like_ours=layers_like_ours,
)
