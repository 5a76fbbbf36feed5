"""The PyTorch twin of `jaxsep.models.wave_unet`, from the original's code in torch's own layers, channels first.

For comparisons only, with weights taken from our variables by `load_variables` of unet.py: layers have the names of
ours. Nothing imports this module eagerly: it needs torch.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from jaxsep.compare.reference import unet, wave_unet_layers
from jaxsep.compare.twins import Twin
from jaxsep.models.wave_unet import WaveUNetConfig


class WaveUNet(nn.Module):
    """The Wave-U-Net in PyTorch, (batch, channel, time) in, (batch, source, channel, time) out.

    Every layer is computed whole and then decimated or cropped, as in the original.

    Args:
        config: The shape, as for ours.
    """

    def __init__(self, config: WaveUNetConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.channels
        for i in range(config.levels):
            features = (i + 1) * config.filters
            block = nn.Module()
            block.conv = _convolution(config, inputs, features, config.kernel_size)
            self.add_module(f"down_{i}", block)
            inputs = features
        features = (config.levels + 1) * config.filters
        self.bottom = _convolution(config, inputs, features, config.kernel_size)
        inputs = features
        for i in range(config.levels):
            features = (config.levels - i) * config.filters
            if config.upsampling == "learned":
                self.add_module(f"upsampling_{i}", _Interpolation(inputs, context=config.context))
            self.add_module(f"up_{i}", _convolution(config, inputs + features, features, config.merge_kernel_size))
            inputs = features
        for m in range(config.n_sources - (config.output == "difference")):
            self.add_module(f"output_{m}", nn.Conv1d(inputs + config.channels, config.channels, 1))
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        """Returns the estimates."""
        config = self.config
        maps, skips = mixture, []
        for i in range(config.levels):
            maps = self.activation(self.get_submodule(f"down_{i}.conv")(maps))
            skips.append(maps)
            maps = maps[..., ::2]
        maps = self.activation(self.bottom(maps))
        for i in range(config.levels):
            maps = self._upsample(maps, i)
            maps = torch.cat([centre_crop(skips.pop(), maps.shape[-1]), maps], dim=1)
            maps = self.activation(self.get_submodule(f"up_{i}")(maps))
        original = centre_crop(mixture, maps.shape[-1])
        maps = torch.cat([original, maps], dim=1)
        names = [name for name, _ in self.named_children() if name.startswith("output_")]
        estimates = [self._bounded(self.get_submodule(name)(maps)) for name in names]
        if config.output == "difference":
            estimates.append(self._clipped(original - sum(estimates)))
        return torch.stack(estimates, dim=1)

    def _upsample(self, maps: torch.Tensor, level: int) -> torch.Tensor:
        if self.config.upsampling == "learned":
            return self.get_submodule(f"upsampling_{level}")(maps)
        length = maps.shape[-1]
        if self.config.context:
            return nn.functional.interpolate(maps, 2 * length - 1, mode="linear", align_corners=True)
        # TensorFlow's resizing of old: sample t is read at t / 2, and behind the last sample is the last sample.
        repeated = nn.functional.pad(maps, (0, 1), mode="replicate")
        return nn.functional.interpolate(repeated, 2 * length + 1, mode="linear", align_corners=True)[..., :-1]

    def _bounded(self, estimate: torch.Tensor) -> torch.Tensor:
        return torch.tanh(estimate) if self.config.output_activation == "tanh" else self._clipped(estimate)

    def _clipped(self, estimate: torch.Tensor) -> torch.Tensor:
        return estimate if self.training else estimate.clamp(-1, 1)


class _Interpolation(nn.Module):
    """A sample between every two, by a convolution with a kernel of two for each channel."""

    def __init__(self, channels: int, *, context: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).uniform_(-1, 1))
        self.context = context

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(self.weight)
        kernel = torch.stack([share, 1 - share], dim=-1)[:, None]
        padded = maps if self.context else nn.functional.pad(maps, (0, 1))
        between = nn.functional.conv1d(padded, kernel, groups=len(share))
        doubled = maps.new_empty(*maps.shape[:-1], maps.shape[-1] + between.shape[-1])
        doubled[..., ::2] = maps
        doubled[..., 1::2] = between
        return doubled


def centre_crop(maps: torch.Tensor, length: int) -> torch.Tensor:
    """Returns the middle of maps; an odd sample is cut from the end."""
    start = (maps.shape[-1] - length) // 2
    return maps[..., start : start + length]


def separate_as_published(
    network: Callable[[torch.Tensor], torch.Tensor], mixture: np.ndarray, input_length: int, output_length: int
) -> np.ndarray:
    """Separates a track at the network's own rate by the loop of the original's Evaluate.py.

    Args:
        network: (1, channel, input_length) to (1, source, channel, output_length).
        mixture: (time, channel).
        input_length: That the network takes.
        output_length: That it gives.

    Returns:
        Estimates (source, time, channel).
    """
    missing = max(input_length - len(mixture), 0)
    track = np.pad(mixture, [(0, missing), (0, 0)])
    context = (input_length - output_length) // 2
    padded = np.pad(track, [(context, context), (0, 0)])
    estimates: np.ndarray | None = None
    for position in range(0, len(track), output_length):
        position = min(position, len(track) - output_length)
        part = torch.from_numpy(padded[position : position + input_length].T[None].copy())
        with torch.inference_mode():
            found = network(part)[0].numpy().swapaxes(-1, -2)
        if estimates is None:
            estimates = np.zeros((len(found), *track.shape), np.float32)
        estimates[:, position : position + output_length] = found
    assert estimates is not None
    return estimates[:, : len(mixture)]


def _convolution(config: WaveUNetConfig, inputs: int, features: int, size: int) -> nn.Conv1d:
    return nn.Conv1d(inputs, features, size, padding=0 if config.context else size // 2)


TWIN = Twin(
    build=lambda spec: WaveUNet(wave_unet_layers.config_of(spec)),
    load_variables=unet.load_variables,
    to_variables=unet.to_variables,
    layer_outputs=unet.layer_outputs,
    # Published in TensorFlow alone, and not in torch's layouts: what is read back gets the original's names.
    converted=lambda network, spec: wave_unet_layers.converted(
        unet.to_variables(network), spec, where="the PyTorch twin"
    ),
    names=wave_unet_layers.NAMES,
    layers_like_ours=wave_unet_layers.layers_like_ours,
)
