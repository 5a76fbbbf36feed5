"""What the Wave-U-Nets share: lengths that follow from one another, cropping, and their convolutions' parameters.

The forms of the convolutions are in `convolutions_1d.py`, the networks in a file for each family.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.errors import ConfigError
from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.convolutions_1d import convolve
from jaxsep.models.family import NetworkConfig
from jaxsep.typing import Waveform

Maps = Float[Array, "batch time channel"]


class Lengths(NamedTuple):
    """What a network takes and gives.

    Attributes:
        input: Samples of the mixture.
        output: Samples of each estimate, in the middle of those.
    """

    input: int
    output: int


class WaveConfig(NetworkConfig):
    """What the configs of all Wave-U-Nets have: sources, channels, and the lengths that fit through the levels.

    See `NetworkConfig`.
    """

    # The fewest samples that the innermost level must have for all layers to be defined.
    smallest_bottleneck: ClassVar[int]

    @property
    def length_step(self) -> int:
        """Samples from one length that the network takes to the next."""
        return self._line()[1]

    def lengths_around(self, bottleneck: int) -> Lengths:
        """Returns the lengths that belong to so many samples at the innermost level; a line in `bottleneck`."""
        raise NotImplementedError

    def lengths(self, output_length: int) -> Lengths:
        """Returns the shortest lengths with as many output samples as are asked for, or more.

        Args:
            output_length: Samples that are wanted.
        """
        first, step = self._line()
        return self.lengths_around(self.smallest_bottleneck + max(-(-(output_length - first.output) // step), 0))

    def input_length(self, output_length: int) -> int:
        """Returns the shortest mixture of which so many samples, or more, are estimated."""
        return self.lengths(output_length).input

    def output_length(self, input_length: int) -> int:
        """Returns how many samples of each source come of so many of the mixture.

        Raises:
            ConfigError: The network does not take so many.
        """
        first, step = self._line()
        more, rest = divmod(input_length - first.input, step)
        found = self.lengths_around(self.smallest_bottleneck + more)
        if rest or more < 0 or found.output < 1:
            shortest = self.lengths(1)
            larger = Lengths(
                *(length + max(-(-(input_length - shortest.input) // step), 0) * step for length in shortest)
            )
            raise ConfigError(
                f"The mixture has {input_length} samples, which do not come out even at every level of the network; "
                f"give {larger.input}, of which {larger.output} are estimated."
            )
        return found.output

    def _line(self) -> tuple[Lengths, int]:
        first = self.lengths_around(self.smallest_bottleneck)
        return first, self.lengths_around(self.smallest_bottleneck + 1).output - first.output


def to_waveforms(mixture: Waveform, config: WaveConfig) -> Maps:
    """Flattens the batch, and refuses mixtures that are not what a config asks for.

    Raises:
        ConfigError: If channels or length are not.
    """
    *_, length, channels = mixture.shape
    if channels != config.channels:
        raise ConfigError(f"The mixture has {channels} channels, and the network's config says {config.channels}.")
    config.output_length(length)
    return mixture.reshape(-1, length, channels)


def crop(maps: Float[Array, "batch time channel"], length: int) -> Float[Array, "batch part channel"]:
    """Returns the middle of maps; an odd sample is cut from the end."""
    start = (maps.shape[1] - length) // 2
    return maps[:, start : start + length]


class Convolution(nn.Module):
    """A convolution along time with a bias, 'valid': shorter by the kernel less one.

    Attributes:
        features: Output channels.
        kernel_size: Along time.
        form: How it is computed.
        dtype: What it is computed in; None for that of the parameters and maps.
        kernel_init: Of the kernel.
        bias_init: Of the bias, called as `bias_init(key, shape, dtype, inputs)` with the number of products that each
            sum has.
    """

    features: int
    kernel_size: int
    form: ConvolutionForm
    dtype: DTypeLike | None
    kernel_init: Callable[..., Any] = nn.initializers.glorot_uniform()
    bias_init: Callable[..., Any] = lambda key, shape, dtype, inputs: jnp.zeros(shape, dtype)

    @nn.compact
    def __call__(
        self,
        maps: Float[Array, "batch time in_channel"],
        convolution: Callable[..., Any] = convolve,
        add_bias: Callable[..., Any] = jnp.add,
    ) -> Any:
        """Convolves and adds the bias.

        Args:
            maps: What is convolved.
            convolution: Called with maps, kernel and form; gives the convolution, or a tuple of parts of it.
            add_bias: Called with each part and the bias as (1, 1, channel); another function can leave them apart.
        """
        channels = maps.shape[-1]
        shape = (self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32, self.kernel_size * channels)
        maps, kernel, bias = nn.dtypes.promote_dtype(maps, kernel, bias, dtype=self.dtype)
        return jax.tree.map(lambda part: add_bias(part, bias[None, None]), convolution(maps, kernel, self.form))
