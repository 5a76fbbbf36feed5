"""A transformer over two sequences, each of which attends to itself and, in every second layer, to the other.

As in facebookresearch/demucs, demucs/transformer.py, for its dense attention and sinusoidal positions.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pydantic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxsep.config import Config
from jaxsep.models.convolutions import ConvolutionForm, choose_form
from jaxsep.models.demucs_layers import LayerScale, gelu, group_norm, layer_norm, linear
from jaxsep.models.initialisers import uniform

Tokens = Float[Array, "batch token channel"]


class TransformerConfig(Config):
    """The shape of the transformer, under the names of Demucs's constructor without their 't_'.

    Attributes:
        layers: Number of layers of each sequence.
        heads: Heads of attention.
        hidden_scale: Channels between the two products of a layer over its channels.
        dropout: Share of values that are dropped in training.
        max_period: Longest period of positions.
        weight_pos_embed: Factor of positions.
        norm_in: Whether tokens are normalised before the first layer.
        norm_out: Whether each layer ends with a norm over all tokens and channels.
        layer_scale: Whether residuals have a factor for each channel.
        gelu: Whether products are activated by GELU, and not by ReLU.
        cross_first: Whether the first layer attends to the other sequence.
    """

    layers: int = pydantic.Field(default=5, ge=1, le=64)
    heads: int = pydantic.Field(default=8, ge=1)
    hidden_scale: float = pydantic.Field(default=4.0, ge=0.01, le=64)
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    max_period: float = pydantic.Field(default=10000.0, gt=1)
    weight_pos_embed: float = 1.0
    norm_in: bool = True
    norm_out: bool = True
    layer_scale: bool = True
    gelu: bool = True
    cross_first: bool = False


class CrossTransformer(nn.Module):
    """The transformer of HT Demucs.

    Attributes:
        config: Its shape.
        train: Whether dropout acts.
        dtype: What it is computed in.
        form: How attention is computed; see `attend`.
    """

    config: TransformerConfig
    train: bool
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"

    @nn.compact
    def __call__(
        self, maps: Float[Array, "batch freq time channel"], waves: Float[Array, "batch step channel"]
    ) -> tuple[Float[Array, "batch freq time channel"], Float[Array, "batch step channel"]]:
        """Returns both sequences, of the same shapes. A spectrogram's tokens go through its rows frame by frame."""
        config = self.config
        batch, rows, frames, channels = maps.shape
        tokens = jnp.moveaxis(maps, 1, 2).reshape(batch, -1, channels)
        if config.norm_in:
            tokens = layer_norm(self.dtype, "norm_in")(tokens)
            waves = layer_norm(self.dtype, "norm_in_t")(waves)
        weight = config.weight_pos_embed
        tokens = tokens + jnp.asarray(
            weight * positions_2d(rows, frames, channels, config.max_period)[None], tokens.dtype
        )
        waves = waves + jnp.asarray(weight * positions(waves.shape[1], channels, config.max_period)[None], waves.dtype)
        for index in range(config.layers):
            layer, layer_t = (
                _Layer(config, self.train, self.dtype, self.form, name=f"layers{branch}_{index}")
                for branch in ("", "_t")
            )
            if index % 2 == int(config.cross_first):
                tokens, waves = layer(tokens), layer_t(waves)
            else:
                tokens, waves = layer(tokens, waves), layer_t(waves, tokens)
        maps = jnp.moveaxis(tokens.reshape(batch, frames, rows, channels), 2, 1)
        return maps, waves


class _Layer(nn.Module):
    """Attention to the sequence itself or to another one, and two products."""

    config: TransformerConfig
    train: bool
    dtype: DTypeLike | None
    form: ConvolutionForm

    @nn.compact
    def __call__(self, tokens: Tokens, other: Float[Array, "batch heard channel"] | None = None) -> Tokens:
        config = self.config
        heard = None if other is None else layer_norm(self.dtype, "norm2")(other)
        tokens = tokens + self._scaled(self._attend(layer_norm(self.dtype, "norm1")(tokens), heard), 1)
        before_products = layer_norm(self.dtype, "norm2" if other is None else "norm3")
        tokens = tokens + self._scaled(self._products(before_products(tokens)), 2)
        return group_norm(1, self.dtype, "norm_out")(tokens) if config.norm_out else tokens

    def _scaled(self, found: Tokens, number: int) -> Tokens:
        if not self.config.layer_scale:
            return found
        return LayerScale(1e-4, self.dtype, name=f"gamma_{number}")(found)

    def _attend(self, tokens: Tokens, other: Float[Array, "batch heard channel"] | None) -> Tokens:
        name = "self_attn" if other is None else "cross_attn"
        found = Attention(self.config.heads, self.config.dropout, self.train, self.dtype, self.form, name=name)(
            tokens, tokens if other is None else other
        )
        return self._dropped(found)

    def _products(self, tokens: Tokens) -> Tokens:
        channels = tokens.shape[-1]
        hidden = int(channels * self.config.hidden_scale)
        found = linear(hidden, channels, self.dtype, "linear1")(tokens)
        found = self._dropped(gelu(found) if self.config.gelu else jax.nn.relu(found))
        return self._dropped(linear(channels, hidden, self.dtype, "linear2")(found))

    def _dropped(self, found: Tokens) -> Tokens:
        return nn.Dropout(self.config.dropout, deterministic=not self.train)(found)


class Attention(nn.Module):
    """Attention of several heads with PyTorch's parameters, one product for queries, keys and values.

    Attributes:
        heads: Number of heads.
        dropout: Share of the weights that are dropped in training.
        train: Whether they are.
        dtype: What it is computed in.
        form: How it is computed; see `attend`.
    """

    heads: int
    dropout: float = 0.0
    train: bool = False
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"

    @nn.compact
    def __call__(self, queries: Tokens, heard: Float[Array, "batch heard channel"]) -> Tokens:
        """Returns what each query makes of the tokens that it hears."""
        batch, length, channels = queries.shape
        bound = uniform(math.sqrt(6 / (4 * channels)))  # Xavier's, of one matrix for all three
        kernel = self.param("in_proj_kernel", bound, (channels, 3 * channels))
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3 * channels,))
        bias = bias[None, None]
        queries, heard, kernel, bias = nn.dtypes.promote_dtype(queries, heard, kernel, bias, dtype=self.dtype)
        query = queries @ kernel[:, :channels] + bias[..., :channels]
        key, value = jnp.split(heard @ kernel[:, channels:] + bias[..., channels:], 2, axis=-1)
        query, key, value = (
            each.reshape(batch, -1, self.heads, channels // self.heads) for each in (query, key, value)
        )
        if self.dropout and self.train:
            found = self._dropping(query, key, value)
        else:
            found = attend(query, key, value, self.form)
        out = nn.Dense(channels, dtype=self.dtype, kernel_init=uniform(channels**-0.5), name="out_proj")
        return out(found.reshape(batch, length, channels))

    def _dropping(self, query: Array, key: Array, value: Array) -> Array:
        """Attention whose weights are dropped, which no kernel of accelerators does."""
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) / math.sqrt(query.shape[-1])
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(scores.dtype)
        weights = nn.Dropout(self.dropout, deterministic=False)(weights)
        return jnp.einsum("bhqk,bkhc->bqhc", weights, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend(
    query: Float[Array, "batch token head channel"],
    key: Float[Array, "batch heard head channel"],
    value: Float[Array, "batch heard head channel"],
    form: ConvolutionForm = "auto",
) -> Float[Array, "batch token head channel"]:
    """Returns what each token makes of the values that it attends to.

    Derivatives compute the weights again: of 2,688 tokens and 8 heads they are 231 MB in each layer.

    Args:
        query: What tokens ask for.
        key: What heard tokens answer to.
        value: What they give.
        form: 'cpu' for one head after the other, 'native' for JAX's own attention, for which accelerators have kernels;
            'auto' by the platform.
    """
    return choose_form(form, _head_by_head, jax.nn.dot_product_attention, query, key, value)


def _attend_forward(query: Array, key: Array, value: Array, form: ConvolutionForm) -> tuple[Array, tuple[Array, ...]]:
    return attend(query, key, value, form), (query, key, value)


def _attend_backward(form: ConvolutionForm, saved: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
    def pulled_back(function: Callable[..., Array], *operands: Array) -> tuple[Array, ...]:
        return jax.vjp(function, *operands[:-1])[1](operands[-1])

    on_cpu = functools.partial(pulled_back, _head_by_head)
    native = functools.partial(pulled_back, jax.nn.dot_product_attention)
    return choose_form(form, on_cpu, native, *saved, gradient)


attend.defvjp(_attend_forward, _attend_backward)


def _head_by_head(query: Array, key: Array, value: Array) -> Array:
    """Attention without the scores of all heads in memory at a time, 231 MB for 2,688 tokens and 8 heads.

    On two cores it takes 0.45 to 0.6 times as long as JAX's own, and its derivatives 0.5 to 0.6 times. A loop over
    heads is no faster, and its derivatives take 1.2 to 1.4 times as long; blocks of queries gain nothing more.
    """
    query = query / math.sqrt(query.shape[-1])
    found = []
    for head in range(query.shape[2]):
        scores = jnp.einsum("bqc,bkc->bqk", query[:, :, head], key[:, :, head])
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        # What is divided is not the weights but what they make, which is smaller.
        heard = jnp.einsum("bqk,bkc->bqc", weights, value[:, :, head])
        found.append(heard / weights.sum(-1, keepdims=True))
    return jnp.stack(found, axis=2)


def positions(length: int, channels: int, max_period: float) -> Float[np.ndarray, "step channel"]:
    """Returns positions along time: cosines in the first half of the channels, sines in the second."""
    half = channels // 2
    phase = np.arange(length)[:, None] / max_period ** (np.arange(half) / (half - 1))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def positions_2d(rows: int, frames: int, channels: int, max_period: float) -> Float[np.ndarray, "token channel"]:
    """Returns positions of tokens that go through the rows of one frame after another.

    The first half of the channels is about time, the second about frequency; in each, sines and cosines alternate.
    """
    half = channels // 2
    rates = np.exp(np.arange(0, half, 2) * -(math.log(max_period) / half))

    def along(count: int) -> np.ndarray:
        phase = np.arange(count)[:, None] * rates
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(count, half)

    in_time = np.repeat(along(frames)[:, None], rows, axis=1)
    in_frequency = np.repeat(along(rows)[None], frames, axis=0)
    return np.concatenate([in_time, in_frequency], axis=-1).reshape(frames * rows, channels)
