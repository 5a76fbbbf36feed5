"""The PyTorch twin of `jaxsep.models.classic_unet` in torch's own layers, channels first.

For comparisons, and to train in PyTorch what `jaxsep convert --family classic_unet` takes. Nothing imports this module
eagerly: it needs torch.
"""

import torch
from torch import nn

from jaxsep.compare.reference.layers import ScaledUNet, norm_layer
from jaxsep.compare.reference.unet import twin_of_our_names
from jaxsep.models.classic_unet import ClassicUNetConfig


class ClassicUNet(ScaledUNet):
    """The classic U-Nets in PyTorch.

    Args:
        config: The shape, as for ours.
        bias: Whether convolutions before a norm have a bias, as torch's have if nothing is said.
    """

    def __init__(self, config: ClassicUNetConfig, *, bias: bool = False) -> None:
        super().__init__(config, [_SourceNetwork(config, bias=bias) for _ in range(config.n_sources)])


class _SourceNetwork(nn.Module):
    def __init__(self, config: ClassicUNetConfig, *, bias: bool) -> None:
        super().__init__()
        self.levels = len(config.filters)
        inputs = config.channels
        for i, features in enumerate(config.filters):
            self.add_module(f"encoder_{i}", _Block(config, inputs, features, bias=bias))
            inputs = features
        for i, features in enumerate(config.filters[-2::-1]):
            self.add_module(f"up_{i}", nn.ConvTranspose2d(inputs, features, 2, stride=2))
            self.add_module(f"decoder_{i}", _Block(config, 2 * features, features, bias=bias))
            inputs = features
        self.mask = nn.Conv2d(inputs, config.channels, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        skips = []
        for i in range(self.levels - 1):
            skips.append(self.get_submodule(f"encoder_{i}")(maps))
            maps = nn.functional.max_pool2d(skips[-1], 2)
        maps = self.get_submodule(f"encoder_{self.levels - 1}")(maps)
        for i in range(self.levels - 1):
            maps = torch.cat([skips.pop(), self.get_submodule(f"up_{i}")(maps)], dim=1)
            maps = self.get_submodule(f"decoder_{i}")(maps)
        return self.mask(maps)


class _Block(nn.Sequential):
    def __init__(self, config: ClassicUNetConfig, inputs: int, features: int, *, bias: bool) -> None:
        super().__init__()
        for name in ("first", "second"):
            convolution = nn.Sequential()
            convolution.add_module("conv", nn.Conv2d(inputs, features, 3, padding=1, bias=bias))
            convolution.add_module("norm", norm_layer(config, features))
            convolution.add_module("activation", nn.ReLU())
            self.add_module(name, convolution)
            inputs = features


TWIN = twin_of_our_names(ClassicUNet, "of `jaxsep convert --family classic_unet`")
