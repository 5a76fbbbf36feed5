"""What all kinds of Demucs are made of: convolutions, residual branches with LSTM and local attention, norms, scales.

Facts are those of facebookresearch/demucs (demucs/demucs.py and demucs/hdemucs.py of version 4); maps are channels
last, (batch, time, channel), or (batch, freq, time, channel) in the branch on spectrograms.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.config import Config
from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.convolutions_1d import convolve_same
from jaxsep.models.initialisers import convolution_bound, uniform
from jaxsep.models.recurrent import LSTM

Maps = Float[Array, "batch time channel"]
OutMaps = Float[Array, "batch out_time out_channel"]
NORM_EPSILON = 1e-5
# What is added to deviations before something is divided by them.
DEVIATION_EPSILON = 1e-5
# Steps that an LSTM hears at a time; frames of them overlap by half.
LSTM_STEPS = 200
# What stands for minus infinity where a step would attend to itself.
_SELF = -100.0


def gelu(maps: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the exact GELU, by the error function as PyTorch computes it.

    `jax.nn.gelu` takes its complement, which XLA computes in branches: 2.3 times as long alone, and fusions that need
    it compute it again.
    """
    return 0.5 * maps * (1 + jax.lax.erf(maps * math.sqrt(0.5)))


def glu(maps: Float[Array, "*shape double"]) -> Float[Array, "*shape single"]:
    """Returns the first half of the channels, gated by the second."""
    values, gates = jnp.split(maps, 2, axis=-1)
    return values * jax.nn.sigmoid(gates)


def group_norm(groups: int, dtype: DTypeLike | None, name: str) -> nn.GroupNorm:
    """Returns PyTorch's group norm: over all positions and the channels of a group together."""
    return nn.GroupNorm(groups, epsilon=NORM_EPSILON, dtype=dtype, use_fast_variance=False, name=name)


def layer_norm(dtype: DTypeLike | None, name: str) -> nn.LayerNorm:
    """Returns PyTorch's layer norm, over channels."""
    return nn.LayerNorm(epsilon=NORM_EPSILON, dtype=dtype, use_fast_variance=False, name=name)


def convolution(
    inputs: int,
    features: int,
    kernel_size: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
    dilation: int = 1,
    rescale: float = 0.0,
    compute: Callable[..., Array] | None = None,
    dtype: DTypeLike | None,
    name: str,
) -> nn.Conv:
    """Returns a convolution with PyTorch's first values.

    Args:
        inputs: Channels of its input.
        features: Channels of its output.
        kernel_size: Size along each axis.
        strides: Step along each axis; None for 1.
        padding: Zeros at either end of each axis; None for none.
        dilation: Distance of taps along all axes.
        rescale: See `convolution_bound`.
        compute: What computes it, called as `jax.lax.conv_general_dilated`; None for that.
        dtype: What it is computed in.
        name: Name of the module.
    """
    bound = uniform(convolution_bound(inputs * math.prod(kernel_size), rescale))
    pads = [(each, each) for each in padding or (0,) * len(kernel_size)]
    return nn.Conv(
        features,
        tuple(kernel_size),
        strides=tuple(strides or (1,) * len(kernel_size)),
        padding=pads,
        kernel_dilation=dilation,
        conv_general_dilated=compute,
        dtype=dtype,
        kernel_init=bound,
        bias_init=bound,
        name=name,
    )


class TransposedConvolution(nn.Module):
    """A transposed convolution that gives (length - 1) * stride + kernel_size samples along each axis.

    Attributes:
        features: Channels of its output.
        kernel_size: Size along each axis.
        strides: Samples of the output for each one of the input, along each axis.
        rescale: See `convolution_bound`.
        dtype: What it is computed in.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    rescale: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, maps: Float[Array, "batch *place channel"]) -> Float[Array, "batch *out_place out_channel"]:
        """Returns the output; the kernel (*size, channel, out_channel) has its taps in the order of time."""
        bound = uniform(convolution_bound(self.features * math.prod(self.kernel_size), self.rescale))
        kernel = self.param("kernel", bound, (*self.kernel_size, maps.shape[-1], self.features))
        bias = self.param("bias", bound, (self.features,))
        maps, kernel, bias = nn.dtypes.promote_dtype(maps, kernel, bias, dtype=self.dtype)
        axes = tuple(range(len(self.kernel_size)))
        return jax.lax.conv_transpose(maps, jnp.flip(kernel, axes), self.strides, "VALID") + bias.reshape(
            (1,) * (maps.ndim - 1) + (-1,)
        )


class LayerScale(nn.Module):
    """A factor for each channel, small at first.

    Attributes:
        init: First value.
        dtype: What it is computed in.
    """

    init: float
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, maps: Float[Array, "*shape channel"]) -> Float[Array, "*shape channel"]:
        """Returns scaled maps."""
        scale = self.param("scale", nn.initializers.constant(self.init), (maps.shape[-1],))
        maps, scale = nn.dtypes.promote_dtype(maps, scale, dtype=self.dtype)
        return maps * scale.reshape((1,) * (maps.ndim - 1) + (-1,))


class BLSTM(nn.Module):
    """A bidirectional LSTM as a residual: over the whole length, or over overlapping frames of `LSTM_STEPS`.

    Attributes:
        layers: Number of layers.
        max_steps: Steps of a frame; None for the whole length.
        skip: Whether the input is added.
        dtype: What it is computed in.
    """

    layers: int = 2
    max_steps: int | None = LSTM_STEPS
    skip: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, maps: Maps) -> Maps:
        """Returns maps of the same shape. Of a frame's outputs its middle half is used, at the ends of all more."""
        batch, length, channels = maps.shape
        frames, count = maps, 1
        width = self.max_steps
        if width is not None and length > width:
            stride = width // 2
            count = -(-length // stride)
            padded = jnp.pad(maps, [(0, 0), (0, (count - 1) * stride + width - length), (0, 0)])
            places = np.arange(count)[:, None] * stride + np.arange(width)
            frames = padded[:, places].reshape(batch * count, width, channels)
        states = LSTM(channels, self.layers, dtype=self.dtype, name="lstm")(frames)
        found = linear(channels, states.shape[-1], self.dtype, "linear")(states)
        if count > 1:
            assert width is not None
            limit = width // 4
            found = found.reshape(batch, count, width, channels)
            parts = [found[:, 0, :-limit]]
            parts.append(found[:, 1:-1, limit:-limit].reshape(batch, -1, channels))
            parts.append(found[:, -1, limit:])
            found = jnp.concatenate(parts, axis=1)[:, :length]
        return found + maps if self.skip else found


def linear(features: int, inputs: int, dtype: DTypeLike | None, name: str) -> nn.Dense:
    """Returns a linear layer with PyTorch's first values."""
    bound = uniform(convolution_bound(inputs))
    return nn.Dense(features, dtype=dtype, kernel_init=bound, bias_init=bound, name=name)


class LocalState(nn.Module):
    """Attention that falls off with distance, at rates which each step chooses for itself.

    Attributes:
        heads: Number of heads.
        decays: Number of rates; 0 for none.
        rescale: See `convolution_bound`.
        dtype: What it is computed in.
    """

    heads: int = 4
    decays: int = 4
    rescale: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, maps: Maps) -> Maps:
        """Returns maps of the same shape, the input added."""
        batch, length, channels = maps.shape

        def project(name: str) -> Array:
            found = convolution(channels, channels, (1,), rescale=self.rescale, dtype=self.dtype, name=name)(maps)
            return found.reshape(batch, length, self.heads, -1)

        queries, keys, content = project("query"), project("key"), project("content")
        scores = jnp.einsum("bthc,bshc->bhst", keys, queries) / math.sqrt(keys.shape[-1])
        distance = np.abs(np.arange(length)[:, None] - np.arange(length)).astype(np.float32)
        if self.decays:
            bound, bias = _decay_bounds(channels, self.rescale)
            chosen = nn.Conv(
                self.heads * self.decays,
                (1,),
                dtype=self.dtype,
                kernel_init=uniform(bound),
                bias_init=nn.initializers.constant(bias),
                name="query_decay",
            )(maps)
            rates = jax.nn.sigmoid(chosen.reshape(batch, length, self.heads, self.decays)) / 2
            steps = np.arange(1, self.decays + 1, dtype=np.float32) / math.sqrt(self.decays)
            scores -= jnp.einsum("bshf,f->bhs", rates, steps.astype(rates.dtype))[..., None] * distance[None, None]
        scores = jnp.where(np.eye(length, dtype=bool)[None, None], _SELF, scores)
        # Softmax over the steps that are heard; scores of a long stretch are sums of many terms.
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(scores.dtype)
        heard = jnp.einsum("bhst,bthc->bshc", weights, content).reshape(batch, length, channels)
        project_back = convolution(channels, channels, (1,), rescale=self.rescale, dtype=self.dtype, name="proj")
        return maps + project_back(heard)


def _decay_bounds(inputs: int, rescale: float) -> tuple[float, float]:
    """Returns the bound of the kernel and the bias that rates start with: a hundredth of the usual, and -2.

    Both are rescaled like any convolution's, which makes the bias far more negative: rates near zero, a wide window.
    """
    bound, bias = 0.01 * convolution_bound(inputs), -2.0
    scale = math.sqrt(bound / math.sqrt(3) / rescale) if rescale else 1.0
    return bound / scale, bias / scale


class DConvConfig(Config):
    """A residual branch of dilated convolutions.

    Attributes:
        compress: Channels of the maps over those of the branch.
        depth: Number of residual steps; the dilation doubles with each.
        init: First value of the scale of each step.
        attention: Whether there is local attention in it.
        lstm: Whether there is an LSTM in it.
    """

    compress: float = 4.0
    depth: int = 2
    init: float = 1e-4
    attention: bool = False
    lstm: bool = False


class DConv(nn.Module):
    """Residual steps of a dilated convolution to few channels, perhaps an LSTM and attention, and one back.

    Attributes:
        config: The branch.
        rescale: See `convolution_bound`.
        dtype: What it is computed in.
        form: How its dilated convolutions are computed; see `convolve_same`.
    """

    config: DConvConfig
    rescale: float = 0.0
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"

    @nn.compact
    def __call__(self, maps: Maps) -> Maps:
        """Returns maps of the same shape."""
        channels = maps.shape[-1]
        hidden = int(channels / self.config.compress)
        for depth in range(self.config.depth):
            step = _DConvStep(
                self.config, hidden, 2**depth, self.rescale, self.dtype, self.form, name=f"layers_{depth}"
            )
            maps = maps + step(maps)
        return maps


class _DConvStep(nn.Module):
    config: DConvConfig
    hidden: int
    dilation: int
    rescale: float
    dtype: DTypeLike | None
    form: ConvolutionForm

    @nn.compact
    def __call__(self, maps: Maps) -> Maps:
        config, channels, dtype = self.config, maps.shape[-1], self.dtype
        common: dict[str, Any] = {"rescale": self.rescale, "dtype": dtype}

        def convolve(maps: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
            return convolve_same(maps, kernel, self.dilation, self.form)

        into = convolution(
            channels,
            self.hidden,
            (3,),
            padding=(self.dilation,),
            dilation=self.dilation,
            compute=convolve,
            name="conv1",
            **common,
        )
        found = gelu(group_norm(1, dtype, "norm1")(into(maps)))
        if config.lstm:
            found = BLSTM(dtype=dtype, name="lstm")(found)
        if config.attention:
            found = LocalState(rescale=self.rescale, dtype=dtype, name="attention")(found)
        found = convolution(self.hidden, 2 * channels, (1,), name="conv2", **common)(found)
        return LayerScale(config.init, dtype, name="scale")(glu(group_norm(1, dtype, "norm2")(found)))


def mono_level(
    mixture: Float[Array, "batch time channel"],
) -> tuple[Float[Array, "batch 1 1"], Float[Array, "batch 1 1"]]:
    """Returns mean and standard deviation along time of the mean of the channels."""
    mono = mixture.mean(-1, keepdims=True)
    return mono.mean(1, keepdims=True), mono.std(1, ddof=1, keepdims=True)


def centre_trim(maps: Maps, length: int) -> Float[Array, "batch middle channel"]:
    """Returns the middle; an odd sample is cut from the end."""
    start = (maps.shape[1] - length) // 2
    return maps[:, start : start + length]
