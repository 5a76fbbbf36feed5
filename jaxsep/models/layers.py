"""What the U-Nets share: what their configs have in common, their layers, and what stands around the networks.

The forms of the convolutions are in `convolutions.py`, the networks in a file for each family.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.errors import ConfigError
from jaxsep.models.convolutions import ConvolutionForm, down, mask_convolution, same, up
from jaxsep.models.family import NetworkConfig
from jaxsep.typing import Magnitude, SourceMagnitude

Activation = Literal["relu", "leaky_relu", "elu"]
ConvolutionKind = Literal["down", "up", "same", "mask"]
InputScale = Literal["plain", "log"]

_CONVOLUTIONS: dict[str, Callable[..., Array]] = {"down": down, "up": up, "same": same, "mask": mask_convolution}


class MaskingConfig(NetworkConfig):
    """What the configs of all U-Nets have: networks side by side, each of which masks the mixture's magnitude.

    Attributes:
        bins: STFT bins from 0 Hz that the network sees; a multiple of `stride`.
        norm_epsilon: What batch norm adds to the variance.
        norm_momentum: Weight of the old running statistics when a batch is added; one minus PyTorch's.
        batch_statistics: Whether training normalises by the batch and updates the running statistics. False keeps every
            norm at its stored mean and variance, also while training.
    """

    bins: int = pydantic.Field(default=1024, ge=1)
    norm_epsilon: float = pydantic.Field(default=1e-5, gt=0)
    norm_momentum: float = pydantic.Field(default=0.9, ge=0, le=1)
    batch_statistics: bool = True

    @property
    def stride(self) -> int:
        """What frames and bins must be multiples of."""
        raise NotImplementedError

    @property
    def length_step(self) -> int:
        """Step from one number of frames that the network takes to the next."""
        return self.stride

    @pydantic.model_validator(mode="after")
    def _bins_halve_evenly(self) -> "MaskingConfig":
        if self.bins % self.stride:
            raise ValueError(
                f"bins (= {self.bins}) must be a multiple of {self.stride}, by which its blocks divide them"
            )
        return self


class ScaledConfig(MaskingConfig):
    """What the configs of U-Nets that do not look at bare magnitudes have beside.

    Attributes:
        input_scale: What the networks look at: see `scaled`.
    """

    input_scale: InputScale = "plain"


def to_maps(magnitude: Magnitude, config: MaskingConfig) -> Float[Array, "image frame freq channel"]:
    """Flattens the batch, and refuses magnitudes that are not what a config asks for.

    Raises:
        ConfigError: If frames, bins or channels are not.
    """
    *_, frames, bins, channels = magnitude.shape
    if (bins, channels) != (config.bins, config.channels):
        raise ConfigError(
            f"The magnitude has {bins} bins and {channels} channels, and the U-Net's config says {config.bins} and "
            f"{config.channels}; cut the spectrogram to its first {config.bins} bins, or change the config."
        )
    if frames % config.stride or not frames:
        raise ConfigError(
            f"The magnitude has {frames} frames, and the U-Net needs a multiple of {config.stride}; pad it with zeros."
        )
    return magnitude.reshape(-1, frames, bins, channels)


def scaled(
    maps: Float[Array, "image frame freq channel"], scale: InputScale
) -> Float[Array, "image frame freq channel"]:
    """Scales what a network looks at; its masks are for the magnitudes as they were.

    Args:
        maps: Magnitudes of segments that are separated one by one.
        scale: 'plain' divides each segment by its largest magnitude, so that it lies between 0 and 1 and the masks do
            not depend on the level (Jansson et al., 2017, normalise to that range and do not say over what; over
            segments, a stream and a whole track are the same). 'log' is log(1 + magnitude) as it is, level and all (the
            U-Net of f90/Wave-U-Net, Models/UnetSpectrogramSeparator.py).
    """
    if scale == "log":
        return jnp.log1p(maps)
    peak = maps.max(axis=(1, 2, 3), keepdims=True)
    return maps / jnp.where(peak > 0, peak, 1)


def mask_mixture(masks: Float[Array, "image source frame freq channel"], magnitude: Magnitude) -> SourceMagnitude:
    """Multiplies the masks of all networks with the magnitude, and gives it its batch back."""
    maps = magnitude.reshape(-1, *magnitude.shape[-3:])
    estimates = masks.astype(magnitude.dtype) * maps[:, None]
    return estimates.reshape(*magnitude.shape[:-3], *estimates.shape[1:])


def activate(maps: Float[Array, "*shape"], activation: Activation) -> Float[Array, "*shape"]:
    """Applies the activation of that name, elementwise."""
    if activation == "leaky_relu":
        return nn.leaky_relu(maps, negative_slope=0.2)
    return nn.relu(maps) if activation == "relu" else nn.elu(maps)


def drop(maps: Float[Array, "*shape"], rate: float, *, train: bool) -> Float[Array, "*shape"]:
    """Applies dropout of that rate while training."""
    return nn.Dropout(rate, deterministic=False)(maps) if train and rate > 0 else maps


def halve(maps: Float[Array, "image frame freq channel"]) -> Float[Array, "image frame/2 freq/2 channel"]:
    """Takes the largest of every two by two values: max pooling.

    Elementwise maxima, because the derivative of XLA's windowed maximum is a scatter, slow everywhere.
    """
    images, frames, bins, channels = maps.shape
    blocks = maps.reshape(images, frames // 2, 2, bins // 2, 2, channels)
    return functools.reduce(_larger, (blocks[:, :, i, :, j] for i in range(2) for j in range(2)))


@jax.custom_jvp
def _larger(one: Float[Array, "*shape"], other: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The elementwise maximum, whose derivative goes to one of the two whatever the compiler does."""
    return jnp.maximum(one, other)


@_larger.defjvp
def _larger_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # That of `maximum` goes to whichever equals the maximum: to neither if XLA computes that anew and rounds it in
    # another way. As in PyTorch, the first of two equals has it.
    one, other = primals
    return _larger(one, other), jnp.where(one >= other, *tangents)


def batch_norm(config: MaskingConfig, dtype: DTypeLike | None, axis_name: str | None, *, train: bool) -> nn.BatchNorm:
    """Returns the batch norm of a block, with the statistics that the config and the mode ask for."""
    return nn.BatchNorm(
        use_running_average=not (train and config.batch_statistics),
        momentum=config.norm_momentum,
        epsilon=config.norm_epsilon,
        dtype=dtype,
        axis_name=axis_name,
        name="norm",
    )


class Convolution(nn.Module):
    """One of the networks' convolutions: strided down, transposed up, of the same size, or Spleeter's dilated one.

    Kernels are initialised as Keras does, He uniform with the fan-in counted from the last axis but one, also where
    that axis holds the output channels of a transposed convolution.

    Attributes:
        kind: Which of them.
        features: Output channels.
        kernel_size: Along frames and along bins.
        form: How it is computed.
        dtype: What it is computed in; None for that of the parameters and maps.
        bias: Whether a bias is added.
    """

    kind: ConvolutionKind
    features: int
    kernel_size: int
    form: ConvolutionForm
    dtype: DTypeLike | None
    bias: bool = True

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq in_channel"]
    ) -> Float[Array, "batch out_frame out_freq out_channel"]:
        """Convolves, and adds the bias if there is one."""
        size, channels = self.kernel_size, maps.shape[-1]
        # A transposed convolution keeps its kernel as that of the strided one it is the transpose of: large map first.
        pair = (self.features, channels) if self.kind == "up" else (channels, self.features)
        kernel = self.param("kernel", nn.initializers.he_uniform(), (size, size, *pair), jnp.float32)
        convolve = _CONVOLUTIONS[self.kind]
        if not self.bias:
            maps, kernel = nn.dtypes.promote_dtype(maps, kernel, dtype=self.dtype)
            return convolve(maps, kernel, self.form)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        maps, kernel, bias = nn.dtypes.promote_dtype(maps, kernel, bias, dtype=self.dtype)
        return convolve(maps, kernel, self.form) + bias.reshape(1, 1, 1, -1)


class NormalisedConvolution(nn.Module):
    """A convolution, batch norm and activation. No bias: the norm would take it away again.

    Attributes:
        config: Of the network.
        form: How the convolution is computed.
        dtype: What the block is computed in; None for that of its parameters and maps.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
        kind: Of the convolution.
        features: Output channels.
        kernel_size: Along frames and along bins.
        activation: Which.
    """

    config: MaskingConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    axis_name: str | None
    kind: ConvolutionKind
    features: int
    kernel_size: int
    activation: Activation

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch frame freq in_channel"], *, train: bool
    ) -> Float[Array, "batch out_frame out_freq out_channel"]:
        """Convolves, normalises and activates."""
        convolution = Convolution(
            self.kind, self.features, self.kernel_size, self.form, self.dtype, bias=False, name="conv"
        )
        norm = batch_norm(self.config, self.dtype, self.axis_name, train=train)
        return activate(norm(convolution(maps)), self.activation)


class ScaledUNet(nn.Module):
    """One network for each source, from scaled magnitudes to the sigmoid mask that multiplies the mixture's magnitude.

    Attributes:
        network: The class of the networks, built as `network(config, form, dtype, axis_name)`; a family says which, in
            `nn.jit`, by which it is traced once for all sources.
        config: The shape of the networks.
        form: How convolutions are computed: 'auto' for what is fastest on the platform that it is compiled for,
            'native' for XLA's own, 'cpu' for the forms that are fast on CPUs.
        dtype: What the networks are computed in; None for that of their parameters and input. Parameters are float32.
        axis_name: The pmapped axis over which batch statistics are averaged; None for no averaging.
    """

    network: ClassVar[Any]

    config: ScaledConfig
    form: ConvolutionForm = "auto"
    dtype: DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, magnitude: Magnitude, *, train: bool) -> SourceMagnitude:
        """Estimates the magnitude of each source.

        Args:
            magnitude: Of the mixture's STFT, bins from 0 Hz up, not scaled. Frames a multiple of `config.stride`: pad
                with zeros to get there, which changes no scale.
            train: Whether dropout acts (from the 'dropout' key) and norms use and update their batch statistics.

        Returns:
            Mask times magnitude, one for each source.

        Raises:
            ConfigError: Frames, bins or channels are not what the config asks for.
        """
        config = self.config
        maps = scaled(to_maps(magnitude, config), config.input_scale)
        logits = [
            self.network(config, self.form, self.dtype, self.axis_name, name=f"source_{m}")(maps, train=train)
            for m in range(config.n_sources)
        ]
        return mask_mixture(jax.nn.sigmoid(jnp.stack(logits, axis=1)), magnitude)
