"""Layers of the hybrid Demucs, on spectrograms and on waveforms, and the transform around those on spectrograms.

Facts are those of facebookresearch/demucs, demucs/hdemucs.py. Maps of the branch on spectrograms are (batch, freq,
time, channel), so that rows are a batch to what works along time.
"""

from functools import cache

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from jaxsep.dsp.stft import STFTConfig, analyse, coverage, synthesise
from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.demucs_layers import (
    DConv,
    DConvConfig,
    TransposedConvolution,
    convolution,
    gelu,
    glu,
    group_norm,
)

Maps = Float[Array, "batch *place channel"]
OutMaps = Float[Array, "batch *out_place out_channel"]


def transform(n_fft: int) -> STFTConfig:
    """Returns the transform of the hybrid kinds: torch's, normalised, a quarter of a frame from one to the next."""
    return STFTConfig(n_fft=n_fft, hop_length=n_fft // 4, convention="torch", normalized=True)


def to_spectrogram(
    mixture: Float[Array, "batch time channel"], n_fft: int, *, zero_padded: bool
) -> Complex[Array, "batch freq frame channel"]:
    """Returns a frame for each hop of the mixture, without the last bin.

    Args:
        mixture: Waveforms of any length.
        n_fft: Size of the transform.
        zero_padded: Whether zeros surround the mixture, as in models that were trained so, and not its reflection.
    """
    hop, length = n_fft // 4, mixture.shape[1]
    pad = hop // 2 * 3
    behind = pad + -(-length // hop) * hop - length
    mode = "constant" if zero_padded else "reflect"
    if not zero_padded and length <= (longest := max(pad, behind)):
        # What is too short to be reflected is extended by zeros first, behind its end before in front of it.
        extra = longest - length + 1
        extra_behind = min(behind, extra)
        mixture = jnp.pad(mixture, [(0, 0), (extra - extra_behind, extra_behind), (0, 0)])
        pad, behind = pad - (extra - extra_behind), behind - extra_behind
    padded = jnp.pad(mixture, [(0, 0), (pad, behind), (0, 0)], mode=mode)
    return jnp.moveaxis(analyse(padded, transform(n_fft)), 1, 2)[:, :-1]


def to_waveform(
    spectrogram: Complex[Array, "batch freq frame channel"], length: int, *, zero_padded: bool
) -> Float[Array, "batch time channel"]:
    """Returns waveforms of spectrograms without their last bin, whose frames are those of `to_spectrogram`."""
    config = transform(2 * spectrogram.shape[1])
    frames = jnp.pad(jnp.moveaxis(spectrogram, 1, 2), [(0, 0), (0, 0), (0, 1), (0, 0)])
    start = 0 if zero_padded else config.hop_length // 2 * 3
    waveform = synthesise(frames, config)[:, start : start + length]
    if not zero_padded:  # what is cut off is all that fewer than all frames cover
        return waveform
    share = _window_sum(frames.shape[1], config)[start : start + length]
    return waveform / jnp.asarray(share, waveform.dtype)[None, :, None]


@cache
def _window_sum(frames: int, config: STFTConfig) -> np.ndarray:
    """Returns the sum of squared windows over frames, with two more frames of zeros at either end."""
    skipped = 2 * config.hop_length
    return np.asarray(coverage(np.ones(frames + 4), config))[skipped:-skipped]


def rows_along_time(layer: DConv, maps: Maps) -> Maps:
    """Applies what works along time to each row of a spectrogram by itself, or to a waveform."""
    if maps.ndim == 3:
        return layer(maps)
    return layer(maps.reshape(-1, *maps.shape[2:])).reshape(maps.shape)


class HybridLayer(nn.Module):
    """What layers of the encoder and of the decoder state.

    Attributes:
        features: Channels of the output.
        kernel_size: Size of the strided convolution along frequency, or along time on waveforms.
        stride: Step of the strided convolution.
        padding: Zeros at either end of its input, in the decoder what is cut from either end of its output.
        on_spectrogram: Whether the layer works on spectrograms.
        is_empty: Whether there is the strided convolution alone.
        norm_groups: Groups of the norms; None for no norms.
        rewrite: Whether there is the gated convolution.
        context: Positions on either side that the gated convolution sees.
        dconv: The residual branch; None for none.
        rescale: See `convolution_bound`.
        dtype: What the layer is computed in.
        form: How the residual branch is computed.
    """

    features: int
    kernel_size: int
    stride: int
    padding: int
    on_spectrogram: bool
    is_empty: bool = False
    norm_groups: int | None = None
    rewrite: bool = True
    context: int = 0
    dconv: DConvConfig | None = None
    rescale: float = 0.0
    dtype: DTypeLike | None = None
    form: ConvolutionForm = "auto"


class EncoderLayer(HybridLayer):
    """A convolution with a stride, a residual branch and a gated convolution; see `HybridLayer`."""

    @nn.compact
    def __call__(self, maps: Maps, inject: Float[Array, "batch step out_channel"] | None = None) -> OutMaps:
        """Returns maps with fewer rows, or steps.

        Args:
            maps: Spectrograms, or waveforms, which are filled up by zeros to a multiple of the stride.
            inject: What the other branch adds behind the first convolution.
        """
        if not self.on_spectrogram:
            maps = maps.reshape(maps.shape[0], -1, maps.shape[-1])
            maps = jnp.pad(maps, [(0, 0), (0, -maps.shape[1] % self.stride), (0, 0)])
        along = (1,) if self.on_spectrogram else ()
        maps = convolution(
            maps.shape[-1],
            self.features,
            (self.kernel_size, *along),
            strides=(self.stride, *along),
            padding=(self.padding, *(0 for _ in along)),
            rescale=self.rescale,
            dtype=self.dtype,
            name="conv",
        )(maps)
        if self.is_empty:
            return maps
        if inject is not None:
            maps = maps + (inject[:, None] if maps.ndim == 4 else inject)
        maps = gelu(normalised(maps, self.norm_groups, self.dtype, "norm1"))
        if self.dconv is not None:
            maps = rows_along_time(DConv(self.dconv, self.rescale, self.dtype, self.form, name="dconv"), maps)
        if not self.rewrite:
            return maps
        places = maps.ndim - 2
        maps = convolution(
            self.features,
            2 * self.features,
            (1 + 2 * self.context,) * places,
            padding=(self.context,) * places,
            rescale=self.rescale,
            dtype=self.dtype,
            name="rewrite",
        )(maps)
        return glu(normalised(maps, self.norm_groups, self.dtype, "norm2"))


class DecoderLayer(HybridLayer):
    """A gated convolution of maps and skipped ones, a residual branch, and a transposed convolution.

    Attributes:
        is_last: Whether the output is that of the network, without activation.
        context_in_frequency: Whether the gated convolution sees positions along frequency too.
    """

    is_last: bool = False
    context_in_frequency: bool = True

    @nn.compact
    def __call__(
        self, maps: Maps, skipped: Float[Array, "batch *skipped_place channel"] | None, length: int
    ) -> tuple[OutMaps, Float[Array, "batch *before_place channel"]]:
        """Returns the output, and what went into the transposed convolution.

        Args:
            maps: From the layer before.
            skipped: What the encoder has at this place; None for an empty layer.
            length: Samples of the output, on waveforms.
        """
        if self.on_spectrogram and maps.ndim == 3:
            maps = maps[:, None]
        if not self.is_empty:
            assert skipped is not None
            maps = self._gated(maps + skipped.reshape(maps.shape))
            if self.dconv is not None:
                maps = rows_along_time(DConv(self.dconv, self.rescale, self.dtype, self.form, name="dconv"), maps)
        before = maps
        along = (1,) if self.on_spectrogram else ()
        size, strides = (self.kernel_size, *along), (self.stride, *along)
        maps = TransposedConvolution(self.features, size, strides, self.rescale, self.dtype, name="conv_tr")(maps)
        maps = normalised(maps, self.norm_groups, self.dtype, "norm2")
        end = maps.shape[1] - self.padding if self.on_spectrogram else self.padding + length
        maps = maps[:, self.padding : end]
        return (maps if self.is_last else gelu(maps)), before

    def _gated(self, maps: Maps) -> Maps:
        if not self.rewrite:
            return maps
        channels, sees = maps.shape[-1], [self.context] * (maps.ndim - 2)
        if not self.context_in_frequency:
            sees[0] = 0
        maps = convolution(
            channels,
            2 * channels,
            [1 + 2 * each for each in sees],
            padding=sees,
            rescale=self.rescale,
            dtype=self.dtype,
            name="rewrite",
        )(maps)
        return glu(normalised(maps, self.norm_groups, self.dtype, "norm1"))


def normalised(maps: Maps, groups: int | None, dtype: DTypeLike | None, name: str) -> Maps:
    """Returns maps behind a group norm, or as they are."""
    return maps if groups is None else group_norm(groups, dtype, name)(maps)
