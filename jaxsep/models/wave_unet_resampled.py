"""The Wave-U-Net's redesign in PyTorch: fixed low-pass filters around every change of rate, norms, a network a source.

What it shares with the original is in `wave_layers.py`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.models.wave_layers import Convolution, Lengths, Maps, WaveConfig, crop, to_waveforms
from jaxsep.typing import Waveform

# Taps of every low-pass filter, and those on each side of the middle one.
TAPS = 15
_HALF = TAPS // 2
# Samples at the lower rate that one product with the filter's matrix takes together.
_SAMPLES = 16
# Channels that a norm takes together.
NORM_CHANNELS = 8
# What a norm adds up one after the other.
_ADDENDS = 16


class ResampledWaveUNetConfig(WaveConfig):
    """The shape of the network; what has a default is as published.

    Attributes:
        filters: Channels of each level.
        kernel_size: Of the convolutions.
        stride: From the rate of one level to that of the next.
        separate: Whether each source has a network of its own; otherwise one network gives all of them.
        norm_epsilon: What the group norms add to the variance.
    """

    # A filter's reflection needs more samples than it has on one side.
    smallest_bottleneck = _HALF + 1

    n_sources: int = pydantic.Field(default=4, ge=1)
    filters: tuple[pydantic.PositiveInt, ...] = pydantic.Field(default=(32, 64, 128, 256, 512, 1024), min_length=2)
    kernel_size: int = pydantic.Field(default=5, ge=1)
    stride: int = pydantic.Field(default=4, ge=2, le=TAPS)
    separate: bool = True
    norm_epsilon: float = pydantic.Field(default=1e-5, gt=0)

    def lengths_around(self, bottleneck: int) -> Lengths:
        """Returns the lengths that belong to so many samples at the innermost level."""
        lost = self.kernel_size - 1
        inside, outside = bottleneck, bottleneck + lost
        for _ in self.filters[1:]:
            inside = (inside - 1) * self.stride + 1 - 2 * lost
            outside = (outside - 1) * self.stride + 1 + 2 * lost
        return Lengths(outside, inside)

    @pydantic.model_validator(mode="after")
    def _kernels_have_a_middle(self) -> "ResampledWaveUNetConfig":
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd, so that estimates lie in the middle of what they are made of")
        return self

    @pydantic.model_validator(mode="after")
    def _channels_fall_into_groups(self) -> "ResampledWaveUNetConfig":
        if any(features % NORM_CHANNELS for features in self.filters):
            raise ValueError(
                f"filters {self.filters} must be multiples of {NORM_CHANNELS}, which a norm takes together"
            )
        return self


RESAMPLED = ResampledWaveUNetConfig()

PRESETS: dict[str, ResampledWaveUNetConfig] = {"torch": RESAMPLED}


class ResampledWaveUNet(nn.Module):
    """The Wave-U-Net as its author redesigned it, f90/Wave-U-Net-Pytorch, in its published form.

    Attributes:
        config: The shape of the networks.
        dtype: What they are computed in; None for that of their parameters and input. Parameters are float32.
    """

    config: ResampledWaveUNetConfig
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, mixture: Waveform, *, train: bool) -> Float[Array, "*batch source out_time channel"]:
        """Estimates the samples of each source.

        Args:
            mixture: Of one of the lengths that `config.lengths` gives.
            train: Whether estimates are left as they are, and not clipped to [-1, 1].

        Returns:
            Estimates of `config.output_length` samples, which belong to the middle of the mixture.

        Raises:
            ConfigError: Length or channels are not what the config asks for.
        """
        config = self.config
        maps = to_waveforms(mixture, config)
        if config.separate:
            outputs = [
                Network(config, self.dtype, config.channels, name=f"source_{m}")(maps) for m in range(config.n_sources)
            ]
        else:
            joined = Network(config, self.dtype, config.n_sources * config.channels, name="sources")(maps)
            outputs = jnp.split(joined, config.n_sources, axis=-1)
        estimates = jnp.stack(outputs, axis=1).astype(mixture.dtype)
        estimates = estimates if train else jnp.clip(estimates, -1, 1)
        return estimates.reshape(*mixture.shape[:-2], *estimates.shape[1:])


class Network(nn.Module):
    """One network, for one source or for all.

    Attributes:
        config: The shape.
        dtype: What it is computed in.
        outputs: Channels that it gives.
    """

    config: ResampledWaveUNetConfig
    dtype: DTypeLike | None
    outputs: int

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch out_time output"]:
        """Goes down, along the bottom, and up."""
        config = self.config
        stride = config.stride
        skips = []
        for i, (features, deeper) in enumerate(zip(config.filters, config.filters[1:], strict=False)):
            maps = Block(config, self.dtype, features, name=f"down_{i}_before_skip")(maps)
            skips.append(maps)
            maps = Block(config, self.dtype, deeper, name=f"down_{i}_after_skip")(maps)
            maps = Resampling(stride, up=False, name=f"downsampling_{i}")(maps)
        maps = Block(config, self.dtype, config.filters[-1], name="bottom")(maps)
        for i, features in enumerate(config.filters[-2::-1]):
            maps = Resampling(stride, up=True, name=f"upsampling_{i}")(maps)
            maps = Block(config, self.dtype, features, name=f"up_{i}_before_skip")(maps)
            maps = jnp.concatenate([crop(skips[-1 - i], maps.shape[1]), maps], axis=-1)
            maps = Block(config, self.dtype, features, name=f"up_{i}_after_skip")(maps)
        return _convolution(self.outputs, 1, self.dtype, "output")(maps)


class Block(nn.Module):
    """A convolution, the norm of groups of channels over all of the time, and a rectifier.

    Attributes:
        config: The shape of the network.
        dtype: What the block is computed in.
        features: Output channels.
    """

    config: ResampledWaveUNetConfig
    dtype: DTypeLike | None
    features: int

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch out_time out_channel"]:
        """Convolves, normalises and activates."""
        config = self.config
        convolved = _convolution(self.features, config.kernel_size, self.dtype, "conv")(maps)
        return nn.relu(GroupNorm(config.norm_epsilon, name="norm")(convolved))


class GroupNorm(nn.Module):
    """The norm of groups of channels over all of the time, in the parameters' float32 where the maps have less.

    Not linen's: on CPUs XLA adds up a mean one value after the other, and over the million values of a group a constant
    stretch, as silence makes, is rounded the same way each time: 1e-5 of the peak away, where PyTorch is 1e-7.

    Attributes:
        epsilon: What is added to the variance.
    """

    epsilon: float

    @nn.compact
    def __call__(self, maps: Maps) -> Maps:
        """Normalises, scales and shifts."""
        batch, length, features = maps.shape
        scale = self.param("scale", nn.initializers.ones_init(), (features,))
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        exact = maps.astype(jnp.promote_types(maps.dtype, scale.dtype))
        groups = exact.reshape(batch, length, features // NORM_CHANNELS, NORM_CHANNELS)
        normalised = _normalised(groups, self.epsilon)
        scaled = normalised.reshape(maps.shape) * scale[None, None] + bias[None, None]
        return scaled.astype(maps.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalised(
    groups: Float[Array, "batch time group in_group"], epsilon: float
) -> Float[Array, "batch time group in_group"]:
    """Takes away the mean of each group and divides by its deviation."""
    return _normalised_forward(groups, epsilon)[0]


def _normalised_forward(groups: Array, epsilon: float) -> tuple[Array, tuple[Array, Array, Array]]:
    mean = _over_groups(groups)
    factor = jax.lax.rsqrt(_over_groups(jnp.square(groups - mean)) + epsilon)
    return (groups - mean) * factor, (groups, mean, factor)


def _normalised_backward(epsilon: float, saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array]:
    # By hand, since automatic derivatives keep and read several arrays of the groups' size.
    groups, mean, factor = saved
    normalised = (groups - mean) * factor
    along = normalised * _over_groups(gradient * normalised)
    return ((gradient - _over_groups(gradient) - along) * factor,)


_normalised.defvjp(_normalised_forward, _normalised_backward)


def _over_groups(groups: Float[Array, "batch time group in_group"]) -> Float[Array, "batch 1 group 1"]:
    """The mean over time and channels, as sums of sums of few; without barriers XLA would make one sum of them."""
    sums = groups
    while sums.shape[1] > 1:
        batch, length, *channels = sums.shape
        padded = jnp.pad(sums, ((0, 0), (0, -length % _ADDENDS), (0, 0), (0, 0)))
        sums = jax.lax.optimization_barrier(padded.reshape(batch, -1, _ADDENDS, *channels).sum(axis=2))
    return sums.sum(axis=3, keepdims=True) / (groups.shape[1] * groups.shape[3])


class Resampling(nn.Module):
    """A change of the rate by a whole number, through a fixed low-pass filter over the reflected signal.

    The filter is part of the weights, since the published one follows from a formula only up to rounding, and is not
    learned.

    Attributes:
        stride: The ratio of the rates.
        up: Which way.
    """

    stride: int
    up: bool

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch out_time channel"]:
        """Resamples: n samples to (n - 1) / stride + 1, or to (n - 1) * stride + 1."""
        taps = self.param("filter", lambda key: jnp.asarray(low_pass(self.stride)))
        taps = jax.lax.stop_gradient(taps).astype(maps.dtype)
        resampled = _upsampled if self.up else _downsampled
        return resampled(maps, taps, stride=self.stride)


def low_pass(stride: int) -> Float[np.ndarray, " tap"]:
    """Returns the published filter: a windowed sinc that cuts off at half the lower rate, with a sum of one.

    Its window is Blackman's but for a slip: the last cosine is of a whole number of turns, and adds 0.08 to all taps.

    Args:
        stride: The ratio of the rates.
    """
    offsets = np.arange(TAPS) - _HALF
    window = 0.42 - 0.5 * np.cos(2 * np.pi * np.arange(TAPS) / (TAPS - 1)) + 0.08
    taps = np.sinc(offsets / stride) * np.where(offsets == 0, 1.0, window)
    return (taps / taps.sum()).astype(np.float32)


# Traced once for all layers of one shape.
@functools.partial(jax.jit, static_argnames="stride")
def _downsampled(maps: Array, taps: Array, *, stride: int) -> Array:
    shorter = (maps.shape[1] - 1) // stride + 1
    padded = jnp.pad(maps, ((0, 0), (_HALF, _HALF), (0, 0)), mode="reflect")
    sample, seen = np.ogrid[:_SAMPLES, : _SAMPLES * stride + TAPS - stride]
    matrix = _matrix(taps, seen - stride * sample)
    return _windows_times(matrix, padded, step=_SAMPLES * stride)[:, :shorter]


@functools.partial(jax.jit, static_argnames="stride")
def _upsampled(maps: Array, taps: Array, *, stride: int) -> Array:
    reach = _HALF // stride + 1
    padded = jnp.pad(maps, ((0, 0), (reach, reach), (0, 0)), mode="reflect")
    sample, seen = np.ogrid[: _SAMPLES * stride, : _SAMPLES + 2 * reach]
    matrix = _matrix(taps, sample - stride * (seen - reach) + _HALF)
    return _windows_times(matrix, padded, step=_SAMPLES)[:, : stride * (maps.shape[1] - 1) + 1]


def _matrix(taps: Array, places: np.ndarray) -> Float[Array, "sample seen"]:
    """The filter as a matrix: the taps at these places, and zeros where there are none."""
    inside = (places >= 0) & (places < TAPS)
    return jnp.where(inside, taps[np.where(inside, places, 0)], 0)


def _windows_times(matrix: Array, maps: Array, *, step: int) -> Float[Array, "batch out_time channel"]:
    """Multiplies windows, one every `step` samples, by a matrix; what comes after the maps is zero.

    Much of the matrix is zeros, and it is still faster than adding up shifted signals, most of all in derivatives.
    """
    batch, length, channels = maps.shape
    windows = -(-length // step)
    rows = jnp.pad(maps, ((0, 0), (0, (windows + 1) * step - length), (0, 0)))
    rows = rows.reshape(batch, windows + 1, step, channels)
    rest = matrix.shape[1] - step
    product = functools.partial(jnp.einsum, "sw,bkwc->bksc", precision="highest")
    filtered = product(matrix[:, :step], rows[:, :-1]) + product(matrix[:, step:], rows[:, 1:, :rest])
    return filtered.reshape(batch, windows * matrix.shape[0], channels)


def _convolution(features: int, size: int, dtype: DTypeLike | None, name: str) -> Convolution:
    """Returns a convolution that starts from PyTorch's random numbers."""
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    def bias(key: Array, shape: tuple[int, ...], dtype: DTypeLike, inputs: int) -> Array:
        limit = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return Convolution(features, size, dtype, uniform, bias, name=name)
