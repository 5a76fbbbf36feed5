"""The Wave-U-Net's redesign in PyTorch: fixed low-pass filters around every change of rate, norms, a network a source.

What it shares with the original is in `wave_layers.py`.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.wave_layers import Convolution, Lengths, Maps, WaveConfig, crop, to_waveforms
from jaxsep.typing import Waveform

# Taps of every low-pass filter, and those on each side of the middle one.
TAPS = 15
_HALF = TAPS // 2
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
        form: How convolutions are computed: 'auto' for what is fastest on the platform that it is compiled for,
            'native' for XLA's own, 'cpu' for the forms that are fast on CPUs.
        dtype: What they are computed in; None for that of their parameters and input. Parameters are float32.
    """

    config: ResampledWaveUNetConfig
    form: ConvolutionForm = "auto"
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
            outputs = []
            for m in range(config.n_sources):
                output = _TracedOnce(config, self.form, self.dtype, config.channels, name=f"source_{m}")(maps)
                # One network after the other: CPUs would compute layers of several at a time, for which their caches
                # are too small. Derivatives do not follow: they would ask for one by the mixture.
                maps, _ = jax.lax.optimization_barrier((maps, jax.lax.stop_gradient(output)))
                outputs.append(output)
        else:
            joined = Network(config, self.form, self.dtype, config.n_sources * config.channels, name="sources")(maps)
            outputs = jnp.split(joined, config.n_sources, axis=-1)
        estimates = jnp.stack(outputs, axis=1).astype(mixture.dtype)
        estimates = estimates if train else jnp.clip(estimates, -1, 1)
        return estimates.reshape(*mixture.shape[:-2], *estimates.shape[1:])


class Network(nn.Module):
    """One network, for one source or for all.

    Attributes:
        config: The shape.
        form: How its convolutions are computed.
        dtype: What it is computed in.
        outputs: Channels that it gives.
    """

    config: ResampledWaveUNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    outputs: int

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch out_time output"]:
        """Goes down, along the bottom, and up."""
        config = self.config
        stride = config.stride
        skips = []
        for i, (features, deeper) in enumerate(zip(config.filters, config.filters[1:], strict=False)):
            maps = Block(config, self.form, self.dtype, features, name=f"down_{i}_before_skip")(maps)
            skips.append(maps)
            maps = Block(config, self.form, self.dtype, deeper, name=f"down_{i}_after_skip")(maps)
            maps = Resampling(stride, up=False, name=f"downsampling_{i}")(maps)
        maps = Block(config, self.form, self.dtype, config.filters[-1], name="bottom")(maps)
        for i, features in enumerate(config.filters[-2::-1]):
            maps = Resampling(stride, up=True, name=f"upsampling_{i}")(maps)
            maps = Block(config, self.form, self.dtype, features, name=f"up_{i}_before_skip")(maps)
            maps = jnp.concatenate([crop(skips[-1 - i], maps.shape[1]), maps], axis=-1)
            maps = Block(config, self.form, self.dtype, features, name=f"up_{i}_after_skip")(maps)
        return _convolution(self.outputs, 1, self.form, self.dtype, "output")(maps)


# Traced and lowered once for all sources.
_TracedOnce = nn.jit(Network)


class Block(nn.Module):
    """A convolution, the norm of groups of channels over all of the time, and a rectifier.

    Attributes:
        config: The shape of the network.
        form: How the convolution is computed.
        dtype: What the block is computed in.
        features: Output channels.
    """

    config: ResampledWaveUNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    features: int

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch out_time out_channel"]:
        """Convolves, normalises and activates."""
        config = self.config
        convolution = _convolution(self.features, config.kernel_size, self.form, self.dtype, "conv")
        convolved, shift = convolution(maps, add_bias=lambda maps, bias: (maps, bias))
        return RectifiedGroupNorm(config.norm_epsilon, name="norm")(convolved, shift)


class RectifiedGroupNorm(nn.Module):
    """The norm of groups of channels over all of the time, and a rectifier.

    In the parameters' float32 where the maps have less. Not linen's: on CPUs XLA adds up a mean one value after the
    other, and over the million values of a group a constant stretch, as silence makes, is rounded the same way each
    time: 1e-5 of the peak away, where PyTorch is 1e-7. And the bias of the convolution before, the norm and the
    rectifier are in one, since each by itself would read and write all maps once more, forward and backward.

    Attributes:
        epsilon: What is added to the variance.
    """

    epsilon: float

    @nn.compact
    def __call__(self, maps: Maps, shift: Float[Array, "1 1 channel"]) -> Maps:
        """Adds the shift, normalises, scales, adds the bias, and sets to zero what is negative."""
        features = maps.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (features,))
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        operands = nn.dtypes.promote_dtype(maps, shift, scale[None, None], bias[None, None])
        return _rectified_norm(*operands, self.epsilon).astype(maps.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _rectified_norm(
    maps: Maps,
    shift: Float[Array, "1 1 channel"],
    scale: Float[Array, "1 1 channel"],
    bias: Float[Array, "1 1 channel"],
    epsilon: float,
) -> Maps:
    """Adds the shift, takes away each group's mean, divides by its deviation, scales, adds the bias, and rectifies."""
    return _rectified_norm_forward(maps, shift, scale, bias, epsilon)[0]


def _rectified_norm_forward(
    maps: Array, shift: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    length = maps.shape[1]
    sums = _over_time(lambda maps: maps, maps) + length * shift
    mean = _over_groups(sums, length)
    offset = shift - mean
    variance = _over_groups(_over_time(lambda maps: jnp.square(maps + offset), maps), length)
    factor = jax.lax.rsqrt(variance + epsilon)
    rectified = nn.relu((maps + offset) * factor * scale + bias)
    return rectified, (maps, scale, bias, offset, factor, (sums - length * mean) * factor)


def _rectified_norm_backward(
    epsilon: float, saved: tuple[Array, ...], gradient: Array
) -> tuple[
    Float[Array, "batch time channel"],
    Float[Array, "1 1 channel"],
    Float[Array, "1 1 channel"],
    Float[Array, "1 1 channel"],
]:
    # By hand, since automatic derivatives keep and read several arrays of the maps' size, and add them up twice: by
    # channel for the parameters and by group for the maps. The second follows from the first, and so does the shift's.
    maps, scale, bias, offset, factor, normalised_sums = saved
    length = maps.shape[1]

    def normalised(maps: Array) -> Array:
        return (maps + offset) * factor

    def passed(maps: Array, gradient: Array) -> Array:
        return jnp.where(normalised(maps) * scale + bias > 0, gradient, 0)

    by_bias = _over_time(passed, maps, gradient)
    by_scale = _over_time(lambda maps, gradient: passed(maps, gradient) * normalised(maps), maps, gradient)
    constant, along = _over_groups(by_bias * scale, length), _over_groups(by_scale * scale, length)
    by_maps = (passed(maps, gradient) * scale - constant - normalised(maps) * along) * factor
    by_shift = (by_bias * scale - length * constant - normalised_sums * along) * factor
    by_shift, by_scale, by_bias = (by.sum(axis=0, keepdims=True) for by in (by_shift, by_scale, by_bias))
    return by_maps, by_shift, by_scale, by_bias


_rectified_norm.defvjp(_rectified_norm_forward, _rectified_norm_backward)


def _over_time(function: Callable[..., Array], *maps: Maps) -> Float[Array, "batch 1 channel"]:
    """The sum over time of an elementwise function of maps, as sums of sums of few.

    Stretches are added to each other, not neighbours: XLA makes loops of that which are about twice as fast.
    """

    def part(start: int, stop: int) -> Array:
        return function(*(each[:, start:stop] for each in maps))

    samples = maps[0].shape[1]
    length = samples // _ADDENDS
    rest = part(length * _ADDENDS, samples).sum(axis=1, keepdims=True)
    if not length:
        return rest
    stretches = functools.reduce(jnp.add, (part(i * length, (i + 1) * length) for i in range(_ADDENDS)))
    # Without the barrier XLA would make one sum of all.
    return rest + _over_time(lambda maps: maps, jax.lax.optimization_barrier(stretches))


def _over_groups(sums: Float[Array, "batch 1 channel"], length: int) -> Float[Array, "batch 1 channel"]:
    """The mean over time and the channels of a group, for each channel, from sums over a time of such a length."""
    groups = sums.reshape(sums.shape[0], 1, -1, NORM_CHANNELS)
    means = groups.sum(axis=3, keepdims=True) / (length * NORM_CHANNELS)
    return jnp.broadcast_to(means, groups.shape).reshape(sums.shape)


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
        resampled = _upsampled if self.up else _downsampled
        return resampled(maps, taps, stride=self.stride).astype(maps.dtype)


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
    padded = jnp.pad(maps, ((0, 0), (_HALF, _HALF), (0, 0)), mode="reflect")
    used = (maps.shape[1] - 1) // stride * stride + TAPS
    return _gathered(padded[:, :used], taps, stride)


@functools.partial(jax.jit, static_argnames="stride")
def _upsampled(maps: Array, taps: Array, *, stride: int) -> Array:
    reach = _HALF // stride + 1
    padded = jnp.pad(maps, ((0, 0), (reach, reach), (0, 0)), mode="reflect")
    start = stride * reach + _HALF
    return _spread(padded, taps, stride)[:, start : start + stride * (maps.shape[1] - 1) + 1]


# A filter that moves by `stride` samples, and its transpose: each is the derivative of the other. Both are sums of a
# few products that XLA makes one loop of, two to ten times as fast as products with the filter as a matrix, and as
# automatic derivatives of such sums. The taps are not learned and get no derivative.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gathered(maps: Maps, taps: Float[Array, " tap"], stride: int) -> Float[Array, "batch out_time channel"]:
    """Returns the sums of `taps[j] * maps[stride * t + j]` at all times t; the last needs the last of the maps."""
    span = maps.shape[1] - TAPS + 1
    return functools.reduce(jnp.add, (taps[j] * maps[:, j : j + span : stride] for j in range(TAPS)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spread(maps: Maps, taps: Float[Array, " tap"], stride: int) -> Float[Array, "batch out_time channel"]:
    """Returns the sums of `taps[t - stride * i] * maps[i]`, at all times t that a tap reaches."""
    batch, samples, channels = maps.shape
    # Times fall into periods of `stride`, and a sample reaches so many of them.
    reached = -(-TAPS // stride)
    periods = samples + reached - 1
    factors = jnp.pad(taps, (0, reached * stride - TAPS)).reshape(reached, 1, 1, stride, 1)
    padded = jnp.pad(maps, ((0, 0), (reached - 1, reached - 1), (0, 0)))[:, :, None]
    terms = (factors[i] * padded[:, reached - 1 - i : reached - 1 - i + periods] for i in range(reached))
    spread = functools.reduce(jnp.add, terms).reshape(batch, periods * stride, channels)
    return spread[:, : stride * (samples - 1) + TAPS]


def _gathered_forward(maps: Array, taps: Array, stride: int) -> tuple[Array, Array]:
    return _gathered(maps, taps, stride), taps


def _gathered_backward(stride: int, taps: Array, gradient: Array) -> tuple[Array, None]:
    return _spread(gradient, taps, stride), None


def _spread_forward(maps: Array, taps: Array, stride: int) -> tuple[Array, Array]:
    return _spread(maps, taps, stride), taps


def _spread_backward(stride: int, taps: Array, gradient: Array) -> tuple[Array, None]:
    return _gathered(gradient, taps, stride), None


_gathered.defvjp(_gathered_forward, _gathered_backward)
_spread.defvjp(_spread_forward, _spread_backward)


def _convolution(features: int, size: int, form: ConvolutionForm, dtype: DTypeLike | None, name: str) -> Convolution:
    """Returns a convolution that starts from PyTorch's random numbers."""
    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    def bias(key: Array, shape: tuple[int, ...], dtype: DTypeLike, inputs: int) -> Array:
        limit = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return Convolution(features, size, form, dtype, uniform, bias, name=name)
