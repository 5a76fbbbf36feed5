"""What a model family states about its networks, and how the rest of jaxsep gets a network from it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import pydantic
from jax.typing import DTypeLike

from jaxsep.config import Config
from jaxsep.errors import ConfigError


@runtime_checkable
class FamilyConfig(Protocol):
    """What the config of every family states about its network.

    Lengths are samples for networks on waveforms, and frames for networks on magnitudes.

    Attributes:
        n_sources: Number of sources that the network estimates.
        channels: Number of audio channels that it takes and gives.
        length_step: Step from one length that it takes to the next.
    """

    @property
    def n_sources(self) -> int:
        """Number of sources that the network estimates."""
        ...

    @property
    def channels(self) -> int:
        """Number of audio channels that it takes and gives."""
        ...

    @property
    def length_step(self) -> int:
        """Step from one length that it takes to the next."""
        ...

    def input_length(self, output_length: int) -> int:
        """Returns the shortest input of which `output_length` or more are estimated."""
        ...

    def output_length(self, input_length: int) -> int:
        """Returns how much is estimated of an input, in its middle.

        Raises:
            ConfigError: The network does not take that length.
        """
        ...


@runtime_checkable
class SpectralConfig(FamilyConfig, Protocol):
    """What the config of a network on magnitudes states beside.

    Attributes:
        bins: Number of STFT bins from 0 Hz up that it takes and gives.
    """

    @property
    def bins(self) -> int:
        """Number of STFT bins that it takes and gives."""
        ...


class NetworkConfig(Config):
    """A base for the configs of families whose networks estimate all of what they see; see `FamilyConfig`.

    Attributes:
        n_sources: Number of sources that the network estimates.
        channels: Number of audio channels that it takes and gives.
    """

    n_sources: int = pydantic.Field(ge=1)
    channels: int = pydantic.Field(default=2, ge=1)

    @property
    def length_step(self) -> int:
        """Step from one length that the network takes to the next."""
        return 1

    def input_length(self, output_length: int) -> int:
        """Returns the shortest input of which `output_length` or more are estimated."""
        return -(-output_length // self.length_step) * self.length_step

    def output_length(self, input_length: int) -> int:
        """Returns how much is estimated of an input, in its middle.

        Raises:
            ConfigError: The network does not take that length.
        """
        if input_length < 1 or input_length % self.length_step:
            raise ConfigError(
                f"The network takes multiples of {self.length_step}, and the length is {input_length}; give "
                f"{self.input_length(max(input_length, 1))}."
            )
        return input_length


class Family(NamedTuple):
    """A model family.

    Attributes:
        config: Class of its configs, which follow `FamilyConfig`.
        module: Its linen module, built as `module(config)` and called as `module.apply(variables, inputs, train=...)`.
            Inputs have one batch axis in front: (batch, time, channel), or (batch, frame, bin, channel) of magnitudes;
            outputs have the axis of sources behind it, (batch, source, ...). A field `dtype` (what it computes in) and
            a field `axis_name` (over which pmapped axis batch statistics are averaged) are set where the module has
            them.
        domain: What the module maps to those of the sources: 'waveform' or 'magnitude', a kind of `Domain`.
        recognise: Rules for weights of another program, called as `recognise(arrays, name=..., where=...)`; returns the
            spec and the rules of `jaxsep.weights.mapping`. None where there are none.
        is_builtin: Whether jaxsep itself holds the family.
        layers: Patterns of the paths of modules ('encoder_*') that training may compute again in the backward pass, for
            less memory: together most of the network, and without batch statistics. Empty where there are none.
    """

    config: type[Config]
    module: Callable[..., nn.Module]
    domain: Literal["waveform", "magnitude"]
    recognise: Callable[..., Any] | None = None
    is_builtin: bool = False
    layers: tuple[str, ...] = ()

    def build(self, config: Config, *, dtype: DTypeLike | None = None, axis_name: str | None = None) -> nn.Module:
        """Returns the network of a config.

        Args:
            config: One of the family's.
            dtype: What the network computes in; None for float32.
            axis_name: Pmapped axis over which batch statistics are averaged; None for no averaging.

        Raises:
            ConfigError: The module has no field `dtype`, and one is asked for.
        """
        network = self.module(config)
        if axis_name is not None and hasattr(network, "axis_name"):
            network = network.clone(axis_name=axis_name)
        return network if dtype is None else in_precision(network, dtype)


def in_precision(network: nn.Module, dtype: DTypeLike) -> nn.Module:
    """Returns the same network, computing in another type.

    Raises:
        ConfigError: The module has no field `dtype`.
    """
    if not hasattr(network, "dtype"):
        raise ConfigError(
            f"The network {type(network).__name__} computes in float32 alone; to compute in another type, give its "
            "module a field 'dtype'."
        )
    return network.clone(dtype=dtype)
