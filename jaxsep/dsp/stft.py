"""The short-time Fourier transform and its inverse, in the two conventions that published weights need.

Pure, jit-able, differentiable, vmappable. No masks, no chunking of tracks.

Both conventions use a periodic Hann window and do not scale the forward transform. They differ at the ends and in the
inverse:

* 'spleeter' (deezer/spleeter, spleeter/model/__init__.py): `n_fft` zeros in front, the tail filled with zeros up to a
  whole frame, one frame for every started hop; the inverse multiplies by the window divided by what squared windows add
  up to, which is a constant where they overlap by 75 % (Spleeter's factor of 2/3) and `inverse_stft_window_fn` of
  tf.signal elsewhere.
* 'torch' (`torch.stft(center=True)` and `torch.istft`, as in Open-Unmix and Demucs): centred frames, reflected ends;
  the inverse divides by the overlap-added squared window.

`analyse` and `synthesise` do the same to frames in the middle of a track, where both conventions agree: training
examples and the chunks of a moving window go through them, and `Edges` says what is special about a track's ends.
"""

import functools
from typing import Literal, NamedTuple

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
        n_fft: Length of a frame and of its transform, in samples.
        hop_length: From one frame to the next, in samples; three quarters of `n_fft` at most.
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

    @property
    def covers_every_length(self) -> bool:
        """Whether the inverse restores the last samples of tracks of all lengths, and torch.istft would not refuse."""
        if self.convention == "spleeter":
            return True
        # The last frame is centred on the last whole hop, and windows end half a frame behind their centre.
        behind = _window(self.n_fft)[self.n_fft // 2 :] ** 2
        behind = np.pad(behind, (0, -len(behind) % self.hop_length)).reshape(-1, self.hop_length)
        return bool(behind.sum(axis=0).min() >= SMALLEST_ENVELOPE)

    @property
    def edges(self) -> "Edges":
        """How far before a track the first frame begins, and what it sees there."""
        if self.convention == "spleeter":
            return Edges(self.n_fft, reflected=False)
        return Edges(self.n_fft // 2, reflected=True)

    @pydantic.model_validator(mode="after")
    def _values_fit_together(self) -> "STFTConfig":
        # What the inverse divides by is 1/23 at least here, and soon nothing where windows overlap less.
        if 4 * self.hop_length > 3 * self.n_fft:
            raise ValueError(
                f"hop_length (= {self.hop_length}) must be three quarters of n_fft (= {self.n_fft}) or less, "
                "for the frames to overlap"
            )
        if self.normalized and self.convention != "torch":
            raise ValueError("normalized=True exists in the 'torch' convention only")
        return self


class Edges(NamedTuple):
    """What a transform sees before a track and behind it.

    Attributes:
        length: Samples before the track at which the first frame begins.
        reflected: Whether the track is reflected there, at both ends; otherwise it is silent.
    """

    length: int
    reflected: bool

    def shortest(self) -> int:
        """Returns the samples that a track must have for its ends to be reflected."""
        return self.length + 1 if self.reflected else 0


def stft(audio: Waveform, config: STFTConfig) -> Spectrogram:
    """Transforms waveforms.

    Args:
        audio: Waveforms (*batch, time, channel). Half precision is transformed in float32.
        config: Which transform.

    Returns:
        Spectrograms (*batch, frame, freq, channel) with `frame_count(time, config)` frames.

    Raises:
        ConfigError: If the audio has no channel axis, or the 'torch' convention cannot reflect its ends because it is
            no longer than half a frame.
    """
    _check_axes(audio)
    length, edges = audio.shape[-2], config.edges
    if length < edges.shortest():
        raise ConfigError(
            f"Audio of {length} samples is too short to be reflected at its ends; "
            f"it takes more than n_fft / 2 = {edges.length}."
        )
    covered = (frame_count(length, config) - 1) * config.hop_length + config.n_fft
    after = edges.length if edges.reflected else covered - edges.length - length
    padding = [(0, 0)] * (audio.ndim - 2) + [(edges.length, after), (0, 0)]
    return analyse(jnp.pad(audio, padding, mode="reflect" if edges.reflected else "constant"), config)


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
    start = config.edges.length
    audio = audio[..., start : start + length, :]
    if config.convention == "torch":
        share = coverage(np.ones(spectrogram.shape[-3]), config)[start : start + length]
        squares = np.resize(_squares_at_every_hop(config)[: config.hop_length], start + len(share))[start:]
        if share.size and (share * squares).min() < SMALLEST_ENVELOPE:
            raise ConfigError(f"{spectrogram.shape[-3]} frames do not cover the {length} samples asked for.")
        audio = audio * jnp.asarray(1 / share, audio.dtype).reshape((1,) * (audio.ndim - 2) + (-1, 1))
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
            used. Half precision is transformed in float32.
        config: Which transform.

    Returns:
        Spectrograms (*batch, frame, freq, channel).

    Raises:
        ConfigError: If the audio has no channel axis, or is shorter than a frame.
    """
    _check_axes(audio)
    if audio.shape[-2] < config.n_fft:
        raise ConfigError(f"Audio of {audio.shape[-2]} samples holds no frame of n_fft = {config.n_fft}; give more.")
    audio = in_single_precision(audio)
    hop, overlap = config.hop_length, -(-config.n_fft // config.hop_length)
    frames = (audio.shape[-2] - config.n_fft) // hop + 1
    blocks = frames - 1 + overlap
    channels_first = jnp.swapaxes(audio[..., : blocks * hop, :], -1, -2)
    missing = blocks * hop - channels_first.shape[-1]
    channels_first = jnp.pad(channels_first, [(0, 0)] * (channels_first.ndim - 1) + [(0, missing)])
    hops = channels_first.reshape(*channels_first.shape[:-1], blocks, hop)
    # Shifted views side by side are the frames: no gather, which XLA runs far slower on CPU. The last view is cut where
    # a frame is no whole number of hops.
    framed = jnp.concatenate(
        [hops[..., shift : shift + frames, : config.n_fft - shift * hop] for shift in range(overlap)], axis=-1
    )
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
        Waveforms (*batch, time, channel) of `(frame - 1) * hop_length + n_fft` samples, scaled so that samples covered
        by all their frames are restored. Those at the ends, which fewer frames cover, fade by `coverage`.
    """
    hop, overlap = config.hop_length, -(-config.n_fft // config.hop_length)
    framed = jnp.fft.irfft(jnp.moveaxis(spectrogram, -1, -3), n=config.n_fft, axis=-1)
    window = _window(config.n_fft) / _squares_at_every_hop(config)
    if config.normalized:
        window = window * config.n_fft**0.5
    framed = framed * _like(window, framed)
    parts = [framed[..., shift * hop : (shift + 1) * hop] for shift in range(overlap)]
    rank = framed.ndim - 2
    shifted = (
        jnp.pad(part, [(0, 0)] * rank + [(shift, overlap - 1 - shift), (0, hop - part.shape[-1])])
        for shift, part in enumerate(parts)
    )
    hops = functools.reduce(jnp.add, shifted)
    covered = (spectrogram.shape[-3] - 1) * hop + config.n_fft
    return jnp.swapaxes(hops.reshape(*hops.shape[:-2], -1)[..., :covered], -1, -2)


def coverage(weights: np.ndarray, config: STFTConfig) -> np.ndarray:
    """Returns how much of itself each sample gets back from `synthesise` where frames have weights.

    Args:
        weights: One weight (frame,) for each frame; a frame that is not there has weight 0.
        config: Which transform.

    Returns:
        Weights (time,) in float64, as many as `synthesise` gives samples: the overlap-added squared windows of the
        weighted frames, divided by what all frames would add up to. Computed in numpy: XLA folds such constants slowly.
    """
    frames, hop = len(weights), config.hop_length
    share = _window(config.n_fft) ** 2 / _squares_at_every_hop(config)
    overlap = -(-config.n_fft // hop)
    total = np.zeros((frames - 1 + overlap, hop))
    for shift in range(overlap):
        part = share[shift * hop : (shift + 1) * hop]
        total[shift : shift + frames, : len(part)] += np.asarray(weights, np.float64)[:, None] * part
    return total.reshape(-1)[: (frames - 1) * hop + config.n_fft]


def in_single_precision(array: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns half precision as float32, and wider types as they are.

    Transforms of half precision do not exist, and small constants such as masks' epsilon vanish in it.
    """
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


def _check_axes(audio: Array) -> None:
    if audio.ndim < 2:
        raise ConfigError(
            f"The audio has the shape {tuple(audio.shape)}, and needs axes (time, channel); add one by audio[:, None]."
        )


@functools.cache
def _window(n_fft: int) -> np.ndarray:
    """Periodic Hann in float64; computed outside of jit, where it is a constant."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


def _squares_at_every_hop(config: STFTConfig) -> np.ndarray:
    """What the squared windows of all frames add up to at each sample of one of them."""
    squared = _window(config.n_fft) ** 2
    place = np.arange(config.n_fft) % config.hop_length
    return np.bincount(place, squared)[place]


def _like(constant: np.ndarray, array: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.asarray(constant, array.dtype).reshape((1,) * (array.ndim - 1) + (-1,))
