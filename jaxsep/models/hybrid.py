"""The two branches of the hybrid Demucs, from a mixture through encoders and decoders to sources.

What lies between encoders and decoders is each family's own: nothing in `hdemucs.py`, a transformer in `htdemucs.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from jaxsep.dsp.wiener import OPEN_UNMIX, initial_estimates
from jaxsep.models.convolutions import ConvolutionForm
from jaxsep.models.demucs_layers import DEVIATION_EPSILON
from jaxsep.models.hybrid_bands import DecoderBands, EncoderBands
from jaxsep.models.hybrid_config import HybridConfig, LayerShape
from jaxsep.models.hybrid_layers import DecoderLayer, EncoderLayer, to_spectrogram, to_waveform
from jaxsep.typing import SourceWaveform, Waveform

# Turns the innermost maps of both branches into those that the decoders start from.
Middle = Callable[[Array, Array], tuple[Array, Array]]


def separate(
    mixture: Waveform,
    config: HybridConfig,
    middle: Middle,
    dtype: DTypeLike | None,
    form: ConvolutionForm = "auto",
) -> SourceWaveform:
    """Separates waveforms; called within a linen module's compact method, in which it makes the layers.

    Args:
        mixture: Waveforms (batch, time, channel) of any length.
        config: The shape of the network.
        middle: What lies between encoders and decoders.
        dtype: What layers are computed in.
        form: How residual branches are computed.
    """
    length = mixture.shape[1]
    spectrogram = to_spectrogram(mixture, config.n_fft, zero_padded=config.hybrid_old)
    seen = _as_channels(spectrogram) if config.cac else jnp.abs(spectrogram)
    maps, mean, deviation = _standardised(seen)
    waves, wave_mean, wave_deviation = _standardised(mixture)
    shapes = config.layers()
    maps, waves, skipped, skipped_waves, lengths = _encode(maps, waves, config, shapes, dtype, form)
    maps, waves = middle(maps, waves)
    maps, waves = _decode(maps, waves, skipped, skipped_waves, lengths, config, shapes, dtype, form)

    def by_source(outputs: Array, mean: Array, deviation: Array) -> Array:
        outputs = outputs.astype(jnp.float32) * deviation + mean
        outputs = outputs.reshape(*outputs.shape[:-1], config.n_sources, -1)
        return jnp.moveaxis(outputs, -2, 1)

    estimates = by_source(maps, mean, deviation)
    spectrograms = _as_complex(estimates) if config.cac else _with_phase(estimates, spectrogram)
    flat = spectrograms.reshape(-1, *spectrograms.shape[2:])
    found = to_waveform(flat, length, zero_padded=config.hybrid_old)
    return found.reshape(*spectrograms.shape[:2], *found.shape[1:]) + by_source(waves, wave_mean, wave_deviation)


def _encode(
    maps: Array,
    waves: Array,
    config: HybridConfig,
    shapes: tuple[LayerShape, ...],
    dtype: DTypeLike | None,
    form: ConvolutionForm,
) -> tuple[Array, Array, list[Array], list[Array], list[int]]:
    """Returns the innermost maps of both branches, what decoders see again of each layer, and lengths of waveforms."""
    skipped, skipped_waves, lengths = [], [], []
    has_dconv = bool(config.dconv_mode & 1)
    for index, shape in enumerate(shapes):
        common: dict[str, Any] = {
            "norm_groups": shape.norm_groups,
            "rewrite": config.rewrite,
            "context": config.context_enc,
            "dconv": shape.dconv if has_dconv else None,
            "rescale": config.rescale,
            "dtype": dtype,
            "form": form,
        }
        inject = None
        if shape.features_time is not None:
            lengths.append(waves.shape[1])
            waves = EncoderLayer(
                shape.features_time,
                config.kernel_size,
                config.stride,
                config.kernel_size // 4,
                False,
                is_empty=shape.is_last_row,
                name=f"tencoder_{index}",
                **common,
            )(waves)
            if shape.is_last_row:
                inject = waves
            else:
                skipped_waves.append(waves)
        elif maps.ndim == 4:
            maps = maps.reshape(maps.shape[0], maps.shape[2], -1)
        make = functools.partial(
            EncoderLayer,
            shape.features,
            shape.kernel_size,
            shape.stride,
            0 if shape.has_bands else shape.padding,
            shape.features_time is not None,
            **common,
        )
        name = f"encoder_{index}"
        layer = (
            EncoderBands(config.multi_freqs, make, shape.kernel_size, shape.stride, name=name)
            if shape.has_bands
            else make(name=name)
        )
        maps = layer(maps, inject)
        if index == 0 and config.freq_emb:
            maps = maps + config.freq_emb * _Embedding(config.emb_scale, name="freq_emb")(maps)
        skipped.append(maps)
    return maps, waves, skipped, skipped_waves, lengths


def _decode(
    maps: Array,
    waves: Array,
    skipped: list[Array],
    skipped_waves: list[Array],
    lengths: list[int],
    config: HybridConfig,
    shapes: tuple[LayerShape, ...],
    dtype: DTypeLike | None,
    form: ConvolutionForm,
) -> tuple[Array, Array]:
    """Returns the outermost maps of both branches."""
    outputs = config.n_sources * config.channels
    has_dconv = bool(config.dconv_mode & 2)
    inner_lengths = [maps.shape[-2] for maps in skipped]
    for index in reversed(range(len(shapes))):
        shape, outside = shapes[index], shapes[index - 1] if index else None
        common: dict[str, Any] = {
            "is_last": outside is None,
            "norm_groups": shape.norm_groups,
            "rewrite": config.rewrite,
            "context": config.context,
            "dconv": shape.dconv if has_dconv else None,
            "rescale": config.rescale,
            "dtype": dtype,
            "form": form,
        }
        on_spectrogram = shape.features_time is not None
        name = f"decoder_{len(shapes) - 1 - index}"
        make = functools.partial(
            DecoderLayer,
            outputs * (1 + config.cac) if outside is None else outside.features,
            shape.kernel_size,
            shape.stride,
            0 if shape.has_bands else shape.padding,
            on_spectrogram,
            context_in_frequency=not shape.has_bands,
            **(common | {"is_last": outside is None or shape.has_bands}),
        )
        layer = (
            DecoderBands(config.multi_freqs, make, shape.stride, outside is None, name=name)
            if shape.has_bands
            else make(name=name)
        )
        maps, before = layer(maps, skipped[index], inner_lengths[index - 1] if index else 0)
        if on_spectrogram:
            number = sum(each.features_time is not None for each in shapes) - 1 - index
            features = outputs if outside is None else outside.features_time
            assert features is not None
            in_time = DecoderLayer(
                features,
                config.kernel_size,
                config.stride,
                config.kernel_size // 4,
                False,
                is_empty=shape.is_last_row,
                name=f"tdecoder_{number}",
                **common,
            )
            heard = before[:, 0] if shape.is_last_row else waves
            waves, _ = in_time(heard, None if shape.is_last_row else skipped_waves[index], lengths[index])
    return maps, waves


class _Embedding(nn.Module):
    """Values for each row of frequencies, small numbers times a factor."""

    scale: float

    @nn.compact
    def __call__(self, maps: Float[Array, "batch freq time channel"]) -> Float[Array, "1 freq 1 channel"]:
        rows, channels = maps.shape[1], maps.shape[3]
        table = self.param("embedding", _smooth(self.scale), (rows, channels))
        return (self.scale * table)[None, :, None].astype(maps.dtype)


def _smooth(scale: float) -> Callable[..., Any]:
    """Returns an initialiser of sums of normal numbers along frequency, of deviation 1 over the scale."""

    def draw(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        steps = jax.random.normal(key, shape, dtype)
        return jnp.cumsum(steps, axis=0) / jnp.sqrt(jnp.arange(1, shape[0] + 1, dtype=dtype))[:, None] / scale

    return draw


def _standardised(maps: Float[Array, "batch *place channel"]) -> tuple[Array, Array, Array]:
    """Returns maps minus their mean over their standard deviation, and both."""
    axes = tuple(range(1, maps.ndim))
    mean, deviation = maps.mean(axes, keepdims=True), maps.std(axes, ddof=1, keepdims=True)
    return (maps - mean) / (DEVIATION_EPSILON + deviation), mean, deviation


def _as_channels(
    spectrogram: Complex[Array, "batch freq frame channel"],
) -> Float[Array, "batch freq frame two_channel"]:
    """Returns real and imaginary part of each channel, side by side."""
    parts = jnp.stack([spectrogram.real, spectrogram.imag], axis=-1)
    return parts.reshape(*parts.shape[:-2], -1)


def _as_complex(maps: Float[Array, "*shape two_channel"]) -> Complex[Array, "*shape channel"]:
    parts = maps.reshape(*maps.shape[:-1], -1, 2)
    return jax.lax.complex(parts[..., 0], parts[..., 1])


def _with_phase(
    magnitudes: Float[Array, "batch source freq frame channel"], mixture: Complex[Array, "batch freq frame channel"]
) -> Complex[Array, "batch source freq frame channel"]:
    """Returns magnitudes, which may be negative, with the mixture's phase: the filter without iterations."""
    by_frame = initial_estimates(
        jnp.moveaxis(magnitudes, 2, 3),
        jnp.moveaxis(mixture, 1, 2),
        config=OPEN_UNMIX.model_copy(update={"iterations": 0}),
    )
    return jnp.moveaxis(by_frame, 3, 2)
