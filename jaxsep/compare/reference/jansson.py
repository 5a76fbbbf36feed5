"""The PyTorch twin of `jaxsep.models.jansson`, from the paper in torch's own layers, channels first.

For comparisons, and to train in PyTorch what `jaxsep convert --family jansson` takes. Nothing imports this module
eagerly: it needs torch.
"""

import torch
from torch import nn

from jaxsep.compare.reference.layers import SameConvTranspose2d, ScaledUNet, norm_layer
from jaxsep.compare.reference.unet import twin_of_our_names
from jaxsep.models.jansson import JanssonConfig


class JanssonUNet(ScaledUNet):
    """Jansson's U-Nets in PyTorch.

    Args:
        config: The shape, as for ours.
        bias: Whether convolutions before a norm have a bias, as torch's have if nothing is said.
    """

    def __init__(self, config: JanssonConfig, *, bias: bool = False) -> None:
        super().__init__(config, [_SourceNetwork(config, bias=bias) for _ in range(config.n_sources)])


class _SourceNetwork(nn.Module):
    def __init__(self, config: JanssonConfig, *, bias: bool) -> None:
        super().__init__()
        size, before, after = config.kernel_size, (config.kernel_size - 2) // 2, (config.kernel_size - 1) // 2
        widths = [config.channels, *config.filters]
        self.encoders, self.decoders = [], []
        for i in range(len(config.filters)):
            block = nn.Sequential()
            # torch pads both ends alike, TensorFlow's 'same' rule one less before than after.
            block.add_module("pad", nn.ZeroPad2d((before, after, before, after)))
            block.add_module("conv", nn.Conv2d(widths[i], widths[i + 1], size, stride=2, bias=bias))
            block.add_module("norm", norm_layer(config, widths[i + 1]))
            block.add_module("activation", nn.LeakyReLU(0.2))
            self.add_module(f"encoder_{i}", block)
            self.encoders.append(f"encoder_{i}")
        inputs = widths[-1]
        for i, features in enumerate(config.filters[-2::-1]):
            block = nn.Sequential()
            block.add_module("conv", SameConvTranspose2d(inputs, features, size, stride=2, padding=before, bias=bias))
            block.add_module("norm", norm_layer(config, features))
            block.add_module("activation", nn.ReLU())
            block.add_module("dropout", nn.Dropout(config.dropout if i < 3 else 0.0))
            self.add_module(f"decoder_{i}", block)
            self.decoders.append(f"decoder_{i}")
            inputs = 2 * features
        self.mask = SameConvTranspose2d(inputs, config.channels, size, stride=2, padding=before)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        encoded = []
        for name in self.encoders:
            maps = self.get_submodule(name)(maps)
            encoded.append(maps)
        for name, skip in zip(self.decoders, encoded[-2::-1], strict=True):
            maps = torch.cat([skip, self.get_submodule(name)(maps)], dim=1)
        return self.mask(maps)


TWIN = twin_of_our_names(JanssonUNet, "of `jaxsep convert --family jansson`")
