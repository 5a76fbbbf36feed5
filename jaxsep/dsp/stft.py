"""The short-time Fourier transform and its inverse, in the two conventions that published weights need.

Pure, jit-able, differentiable, vmappable. No masks, no chunking of tracks.

Both conventions use a periodic Hann window and do not scale the forward transform. They differ at the ends and in the
inverse:

* 'spleeter' (deezer/spleeter, spleeter/model/__init__.py): `n_fft` zeros in front, the tail filled with zeros up to a
  whole frame, one frame for every started hop; the inverse multiplies by the window once more and by a constant (2/3 at
  75 % overlap).
* 'torch' (`torch.stft(center=True)` and `torch.istft`, as in Open-Unmix and Demucs): centred frames, reflected ends;
  the inverse divides by the overlap-added squared window.
"""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pydantic
from jaxtyping import Array, Float

from jaxsep.config import Config
from jaxsep.errors import ConfigError
from jaxsep.typing import Spectrogram, Waveform

# torch.istft refuses an envelope smaller than this rather than divide by it.
SMALLEST_ENVELOPE = 1e-11


class STFTConfig(Config):
    """Which transform.

    Attributes:
        n_fft: Length of a frame and of its transform, in samples; a multiple of `hop_length`.
        hop_length: From one frame to the next, in samples.
        convention: How the ends and the inverse are treated; see the module's docstring.
        normalized: Scale the transform by `n_fft ** -0.5` and the inverse back, as torch does; 'torch' only.
    """

    n_fft: int = pydantic.Field(default=4096, gt=0, multiple_of=2)
    hop_length: int = pydantic.Field(default=1024, gt=0)
    convention: Literal["spleeter", "torch"] = "spleeter"
    normalized: bool = False

    @property
    def bins(self) -> int:
        """The number of frequencies, 0 to half the sample rate."""
        return self.n_fft // 2 + 1

    @pydantic.model_validator(mode="after")
    def _values_fit_together(self) -> "STFTConfig":
        if self.n_fft % self.hop_length or self.n_fft < 2 * self.hop_length:
            raise ValueError(
                f"n_fft (= {self.n_fft}) must be a multiple, twice or more, of hop_length (= {self.hop_length})"
            )
        if self.normalized and self.convention != "torch":
            raise ValueError("normalized=True exists in the 'torch' convention only")
        return self


def stft(audio: Waveform, config: STFTConfig) -> Spectrogram:
    """Transforms waveforms.

    Args:
        audio: Waveforms (*batch, time, channel).
        config: Which transform.

    Returns:
        Spectrograms (*batch, frame, freq, channel) with `frame_count(time, config)` frames.

    Raises:
        ConfigError: If the 'torch' convention cannot reflect the ends because the audio is no longer than half a frame.
    """
    length = audio.shape[-2]
    if config.convention == "spleeter":
        frames = frame_count(length, config)
        covered = (frames - 1) * config.hop_length + config.n_fft
        before, mode = config.n_fft, "constant"
        after = covered - before - length
    else:
        if length <= config.n_fft // 2:
            raise ConfigError(
                f"Audio of {length} samples is too short to be reflected at its ends; "
                f"it takes more than n_fft / 2 = {config.n_fft // 2}."
            )
        before = after = config.n_fft // 2
        mode = "reflect"
    padding = [(0, 0)] * (audio.ndim - 2) + [(before, after), (0, 0)]
    return analyse(jnp.pad(audio, padding, mode=mode), config)


def istft(spectrogram: Spectrogram, config: STFTConfig, *, length: int) -> Waveform:
    """Inverts `stft`.

    Args:
        spectrogram: Spectrograms (*batch, frame, freq, channel).
        config: Which transform.
        length: Samples to return: what the frames cover is cut or filled with zeros.

    Returns:
        Waveforms (*batch, time, channel).
    """
    audio = synthesise(spectrogram, config)
    start = config.n_fft if config.convention == "spleeter" else config.n_fft // 2
    if config.convention == "torch":
        envelope = _squared_window_sum(spectrogram.shape[-3], config)
        kept = envelope[start : start + length]
        if kept.size and kept.min() < SMALLEST_ENVELOPE:
            raise ConfigError(f"{spectrogram.shape[-3]} frames do not cover the {length} samples asked for.")
        audio = audio[..., start : start + length, :] / kept.astype(audio.dtype)[:, None].reshape(
            (1,) * (audio.ndim - 2) + (-1, 1)
        )
    else:
        audio = audio[..., start : start + length, :]
    missing = length - audio.shape[-2]
    return jnp.pad(audio, [(0, 0)] * (audio.ndim - 2) + [(0, missing), (0, 0)])


def frame_count(length: int, config: STFTConfig) -> int:
    """Returns how many frames `stft` gives for `length` samples."""
    if config.convention == "spleeter":
        return -(-(length + config.n_fft) // config.hop_length)
    return 1 + length // config.hop_length


def analyse(audio: Waveform, config: STFTConfig) -> Spectrogram:
    """Transforms the whole frames that lie in the audio as it is, nothing padded.

    Args:
        audio: Waveforms (*batch, time, channel) of at least `n_fft` samples; samples after the last whole frame are not
            used.
        config: Which transform.

    Returns:
        Spectrograms (*batch, frame, freq, channel).
    """
    hop, overlap = config.hop_length, config.n_fft // config.hop_length
    blocks = audio.shape[-2] // hop
    frames = blocks - overlap + 1
    channels_first = jnp.swapaxes(audio[..., : blocks * hop, :], -1, -2)
    hops = channels_first.reshape(*channels_first.shape[:-1], blocks, hop)
    # Shifted views side by side are the frames: no gather, which XLA runs far slower on CPU.
    framed = jnp.concatenate([hops[..., shift : shift + frames, :] for shift in range(overlap)], axis=-1)
    spectrum = jnp.fft.rfft(framed * _like(_window(config.n_fft), framed), axis=-1)
    if config.normalized:
        spectrum = spectrum * config.n_fft**-0.5
    return jnp.moveaxis(spectrum, -3, -1)


def synthesise(spectrogram: Spectrogram, config: STFTConfig) -> Waveform:
    """Overlap-adds the windowed inverse transforms of all frames, nothing cut.

    Args:
        spectrogram: Spectrograms (*batch, frame, freq, channel).
        config: Which transform.

    Returns:
        Waveforms (*batch, time, channel) of `(frame - 1) * hop_length + n_fft` samples: in the 'spleeter' convention
        scaled so that samples covered by all their frames are restored; in the 'torch' convention still to be divided
        by the squared windows.
    """
    hop, overlap = config.hop_length, config.n_fft // config.hop_length
    framed = jnp.fft.irfft(jnp.moveaxis(spectrogram, -1, -3), n=config.n_fft, axis=-1)
    window = _window(config.n_fft)
    if config.convention == "spleeter":
        window = window * (hop / np.sum(window**2))
    elif config.normalized:
        window = window * config.n_fft**0.5
    framed = framed * _like(window, framed)
    parts = jnp.split(framed, overlap, axis=-1)
    rank = framed.ndim - 2
    shifted = (
        jnp.pad(part, [(0, 0)] * rank + [(shift, overlap - 1 - shift), (0, 0)]) for shift, part in enumerate(parts)
    )
    hops = functools.reduce(jnp.add, shifted)
    return jnp.swapaxes(hops.reshape(*hops.shape[:-2], -1), -1, -2)


@functools.cache
def _window(n_fft: int) -> np.ndarray:
    """Periodic Hann in float64; computed outside of jit, where it is a constant."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


def _squared_window_sum(frames: int, config: STFTConfig) -> np.ndarray:
    """The overlap-added squared window, in numpy: XLA folds such a constant very slowly."""
    squared = _window(config.n_fft) ** 2
    total = np.zeros((frames - 1) * config.hop_length + config.n_fft)
    for frame in range(frames):
        start = frame * config.hop_length
        total[start : start + config.n_fft] += squared
    return total


def _like(constant: np.ndarray, array: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.asarray(constant, array.dtype).reshape((1,) * (array.ndim - 1) + (-1,))
