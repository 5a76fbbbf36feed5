"""What the PyTorch twins of the U-Nets share. Nothing imports this module eagerly: it needs torch."""

from typing import TypeVar

import torch
from torch import nn

from jaxsep.models.layers import MaskingConfig, ScaledConfig

Network = TypeVar("Network", bound="MaskingNetwork")


class MaskingNetwork(nn.Module):
    """The base of the twins, (batch, channel, frame, freq) in, (batch, source, channel, frame, freq) out.

    Args:
        config: The shape, as for ours.
    """

    def __init__(self, config: MaskingConfig) -> None:
        super().__init__()
        self.config = config

    def train(self: Network, mode: bool = True) -> Network:
        """Sets the mode; norms stay at their stored statistics where the config says so."""
        super().train(mode)
        if not self.config.batch_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


class ScaledUNet(MaskingNetwork):
    """A network for each source, from scaled magnitudes to the logits of its mask.

    Args:
        config: The shape, as for ours.
        networks: As many as there are sources.
    """

    def __init__(self, config: ScaledConfig, networks: list[nn.Module]) -> None:
        super().__init__(config)
        self.input_scale = config.input_scale
        for m, network in enumerate(networks):
            self.add_module(f"source_{m}", network)

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        """Returns mask times magnitude, one for each source."""
        if self.input_scale == "log":
            scaled = torch.log1p(magnitude)
        else:
            peak = magnitude.amax(dim=(1, 2, 3), keepdim=True)
            scaled = magnitude / torch.where(peak > 0, peak, torch.ones_like(peak))
        masks = torch.stack([torch.sigmoid(network(scaled)) for network in self.children()], dim=1)
        return masks * magnitude[:, None]


class SameConvTranspose2d(nn.ConvTranspose2d):
    """Twice the height and width: torch crops both ends alike, and TensorFlow's 'same' rule crops more at the end."""

    def forward(self, maps: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Returns the transposed convolution, cropped."""
        return super().forward(maps)[..., : 2 * maps.shape[-2], : 2 * maps.shape[-1]]


def norm_layer(config: MaskingConfig, features: int) -> nn.BatchNorm2d:
    """Returns a batch norm with a config's constants."""
    # torch's momentum is the weight of the new batch, ours (and Keras's) that of the old average.
    return nn.BatchNorm2d(features, eps=config.norm_epsilon, momentum=1 - config.norm_momentum)
