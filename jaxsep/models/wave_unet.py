"""The Wave-U-Net (2018) in all its published variants: from a mixture's samples to those of its sources.

What it shares with its redesign is in `wave_layers.py`; how tracks are cut for it, and the sample rates that its
variants are for, in `jaxsep/weights/wave_unet.py`.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.convolutions_1d import convolve, convolve_and_halve
from jaxsep.models.wave_layers import Convolution, Lengths, Maps, WaveConfig, crop, to_waveforms
from jaxsep.typing import Waveform


class WaveUNetConfig(WaveConfig):
    """The shape of the network; what has a default is as published for M4.

    Attributes:
        levels: Down and up blocks; each halves the time resolution.
        filters: Channels of the first block; block number i from 1 on has i times as many.
        kernel_size: Of the convolutions on the way down and at the bottom.
        merge_kernel_size: Of those on the way up.
        upsampling: Samples between two others on the way up: their mean ('linear'), or a weighted mean with a learned
            weight for each channel ('learned').
        output: 'direct' for a convolution for each source; 'difference' for one less, where the last source is the
            mixture minus all others.
        output_activation: Of these convolutions. Estimates that it does not bound are clipped to [-1, 1], but not in
            training.
        context: Whether convolutions see real samples only, so that estimates are shorter than the mixture that they
            are made of; otherwise zeros stand beyond its ends.
    """

    smallest_bottleneck = 2

    levels: int = pydantic.Field(default=12, ge=1)
    filters: int = pydantic.Field(default=24, ge=1)
    kernel_size: int = pydantic.Field(default=15, ge=1)
    merge_kernel_size: int = pydantic.Field(default=5, ge=1)
    upsampling: Literal["linear", "learned"] = "linear"
    output: Literal["direct", "difference"] = "difference"
    output_activation: Literal["tanh", "linear"] = "tanh"
    context: bool = True

    def lengths_around(self, bottleneck: int) -> Lengths:
        """Returns the lengths that belong to so many samples at the innermost level."""
        if not self.context:
            return Lengths(bottleneck * 2**self.levels, bottleneck * 2**self.levels)
        inside, outside = bottleneck, bottleneck + self.kernel_size - 1
        for _ in range(self.levels):
            inside = 2 * inside - self.merge_kernel_size
            outside = 2 * outside + self.kernel_size - 2
        return Lengths(outside, inside)

    @pydantic.model_validator(mode="after")
    def _kernels_have_a_middle(self) -> "WaveUNetConfig":
        if self.kernel_size % 2 == 0 or self.merge_kernel_size % 2 == 0:
            raise ValueError("kernel sizes must be odd, so that estimates lie in the middle of what they are made of")
        return self

    @pydantic.model_validator(mode="after")
    def _a_difference_is_of_others(self) -> "WaveUNetConfig":
        if self.output == "difference" and self.n_sources < 2:
            raise ValueError("the difference of one source from the mixture needs another; use output 'direct'")
        return self


# Config.py of f90/Wave-U-Net: the models of the paper's table, and the one that was published later. M3 and M7 are mono
# as M1 and M2; what M7 and M5-HighSR differ in beside is the sample rate.
M1 = WaveUNetConfig(n_sources=2, channels=1, output="direct", context=False)
M2 = WaveUNetConfig(n_sources=2, channels=1, context=False)
M3 = WaveUNetConfig(n_sources=2, channels=1)
M4 = WaveUNetConfig(n_sources=2)
M5 = WaveUNetConfig(n_sources=2, upsampling="learned")
M6 = WaveUNetConfig(n_sources=4)
M7 = WaveUNetConfig(n_sources=2, channels=1, filters=34)
M5_HIGHSR = M5

PRESETS: dict[str, WaveUNetConfig] = {
    "m1": M1,
    "m2": M2,
    "m3": M3,
    "m4": M4,
    "m5": M5,
    "m6": M6,
    "m7": M7,
    "m5-highsr": M5_HIGHSR,
}


class WaveUNet(nn.Module):
    """The Wave-U-Net of Stoller, Ewert and Dixon (ISMIR 2018, https://arxiv.org/abs/1806.03185), on samples.

    Follows its code, f90/Wave-U-Net (Models/UnetAudioSeparator.py). No norms and no dropout.

    Attributes:
        config: The shape of the network.
        form: How convolutions are computed: 'auto' for what is fastest on the platform that it is compiled for,
            'native' for XLA's own, 'cpu' for the forms that are fast on CPUs.
        dtype: What the network is computed in; None for that of its parameters and input. Parameters are float32.
    """

    config: WaveUNetConfig
    form: ConvolutionForm = "auto"
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, mixture: Waveform, *, train: bool) -> Float[Array, "*batch source out_time channel"]:
        """Estimates the samples of each source.

        Args:
            mixture: Of one of the lengths that `config.lengths` gives.
            train: Whether estimates are left unclipped.

        Returns:
            Estimates of `config.output_length` samples, which belong to the middle of the mixture.

        Raises:
            ConfigError: Length or channels are not what the config asks for.
        """
        config = self.config
        maps = original = to_waveforms(mixture, config)
        skips = []
        for i, needed in enumerate(self._skip_lengths(maps.shape[1])):
            block = Down(config, self.form, self.dtype, (i + 1) * config.filters, needed, name=f"down_{i}")
            skip, maps = block(maps)
            skips.append(skip)
        maps = self._block(maps, config.kernel_size, (config.levels + 1) * config.filters, name="bottom")
        for i, skip in enumerate(skips[::-1]):
            maps = Upsampling(config, self.dtype, name=f"upsampling_{i}")(maps)
            maps = jnp.concatenate([skip, maps], axis=-1)
            maps = self._block(maps, config.merge_kernel_size, (config.levels - i) * config.filters, name=f"up_{i}")
        original = crop(original, maps.shape[1])
        estimates = self._outputs(jnp.concatenate([original.astype(maps.dtype), maps], axis=-1), train=train)
        if config.output == "difference":
            rest = original - functools.reduce(jnp.add, estimates)
            estimates.append(rest if train else jnp.clip(rest, -1, 1))
        stacked = jnp.stack([estimate.astype(mixture.dtype) for estimate in estimates], axis=1)
        return stacked.reshape(*mixture.shape[:-2], *stacked.shape[1:])

    def _block(self, maps: Maps, size: int, features: int, *, name: str) -> Float[Array, "batch out_time out_channel"]:
        """Convolves, with zeros beyond the ends where there is no context, and activates."""
        padded = maps if self.config.context else _padded(maps, size)
        return _activated(Convolution(features, size, self.form, self.dtype, name=name)(padded))

    def _outputs(self, maps: Maps, *, train: bool) -> list[Float[Array, "batch time out_channel"]]:
        config = self.config
        estimates = []
        for m in range(config.n_sources - (config.output == "difference")):
            estimate = Convolution(config.channels, 1, self.form, self.dtype, name=f"output_{m}")(maps)
            if config.output_activation == "tanh":
                estimate = jnp.tanh(estimate)
            elif not train:
                estimate = jnp.clip(estimate, -1, 1)
            estimates.append(estimate)
        return estimates

    def _skip_lengths(self, length: int) -> list[int]:
        """Returns how many samples of each block on the way down reach the other side: what comes up there."""
        config = self.config
        if not config.context:
            return [length // 2**i for i in range(config.levels)]
        output = config.output_length(length)
        needed = []
        for _ in range(config.levels):
            needed.append(output + config.merge_kernel_size - 1)
            output = (needed[-1] + 1) // 2
        return needed


class Down(nn.Module):
    """One block on the way down: a convolution and its activation, whole for the way up and halved for the way down.

    Where the way up needs the middle alone, only that is computed, and every second sample of the rest.

    Attributes:
        config: The shape of the network.
        form: How the convolutions are computed.
        dtype: What the block is computed in.
        features: Output channels.
        needed: Samples for the way up.
    """

    config: WaveUNetConfig
    form: ConvolutionForm
    dtype: DTypeLike | None
    features: int
    needed: int

    @nn.compact
    def __call__(
        self, maps: Maps
    ) -> tuple[Float[Array, "batch needed out_channel"], Float[Array, "batch half out_channel"]]:
        """Returns what the way up gets, and what the next block gets."""
        size = self.config.kernel_size
        convolution = Convolution(self.features, size, self.form, self.dtype, name="conv")

        def parts(maps: Array, kernel: Array, form: ConvolutionForm) -> tuple[Array, Array]:
            return convolve(crop(maps, self.needed + size - 1), kernel, form), convolve_and_halve(maps, kernel, form)

        if self.config.context:
            whole, halved = convolution(maps, parts)
            return _activated(whole), _activated(halved)
        whole = _activated(convolution(_padded(maps, size)))
        return whole, whole[:, ::2]


class Upsampling(nn.Module):
    """Puts a sample between every two: their mean, or a mean with a learned weight for each channel.

    With context, n samples become 2n - 1. Otherwise 2n, where the last sample has the neighbour that the original's
    operations give it: itself where the mean is plain (TensorFlow's bilinear resizing without aligned corners), zero
    where it is learned (a padded convolution).

    Attributes:
        config: The shape of the network.
        dtype: What it is computed in.
    """

    config: WaveUNetConfig
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "batch more channel"]:
        """Upsamples."""
        batch, length, channels = maps.shape
        after = jnp.concatenate([maps[:, 1:], maps[:, -1:]], axis=1)
        if self.config.upsampling == "linear":
            between = (maps + after) / 2
        else:
            # TensorFlow's default for a variable of one axis: Glorot's with as many inputs as outputs.
            limit = (3 / channels) ** 0.5
            weight = self.param(
                "weight", lambda key, shape: jax.random.uniform(key, shape, minval=-limit, maxval=limit), (channels,)
            )
            share = jax.nn.sigmoid(weight).astype(maps.dtype).reshape(1, 1, -1)
            if not self.config.context:
                after = after.at[:, -1].set(0)
            between = share * maps + (1 - share) * after
        doubled = jnp.stack([maps, between], axis=2).reshape(batch, 2 * length, channels)
        return doubled[:, :-1] if self.config.context else doubled


def _padded(maps: Array, size: int) -> Array:
    return jnp.pad(maps, ((0, 0), (size // 2, size // 2), (0, 0)))


def _activated(maps: Array) -> Array:
    return nn.leaky_relu(maps, negative_slope=0.2)
