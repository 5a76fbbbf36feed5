"""What separation is compared with: the best gain, the best equaliser, and masks and a filter that know the answer.

numpy in float64, without jax. A gain alone is often worth more decibels than the step from there to a network, so a
network says little by beating the mixture. The gains are fitted on training songs, one song in memory at a time; the
ideal masks and the oracle filter are told the true sources of the very song.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from jaxsep.errors import AudioError, ConfigError

Mixture = Float[np.ndarray, "time channel"]
Sources = Float[np.ndarray, "source time channel"]
# Frames whose spectra are in memory at one time.
_BLOCK = 128


class Transform(NamedTuple):
    """The STFT in which a baseline works: periodic Hann windows, whose inverse is the least-squares one.

    Attributes:
        n_fft: Length of a frame, in samples.
        hop_length: From one frame to the next; half of `n_fft` at most, and a divisor of it.
    """

    n_fft: int = 4096
    hop_length: int = 1024


TRANSFORM = Transform()
# That of SiSEC 2018's oracles (https://github.com/sigsep/sigsep-mus-oracle).
SISEC = Transform(2048, 1024)


class Song(NamedTuple):
    """A mixture and the true sources that are to be found in it; there may be more in the mixture than these."""

    mixture: Mixture
    sources: Sources


def fit_gains(songs: Iterable[Song]) -> Float[np.ndarray, " source"]:
    """Returns the gain of each source that makes the mixture most like it, in the least squares over all songs.

    Args:
        songs: Iterated once.

    Raises:
        AudioError: There is no song, or shapes do not fit.
    """
    products, energy = np.zeros(0), 0.0
    for mixture, sources in map(_checked, songs):
        found = np.einsum("stc,tc->s", sources, mixture, dtype=np.float64)
        products = products + found if products.size else found
        energy += float(np.einsum("tc,tc->", mixture, mixture, dtype=np.float64))
    return _fitted(products, energy)


def apply_gains(gains: Float[np.ndarray, " source"], mixture: Mixture) -> Sources:
    """Returns the mixture times the gain of each source."""
    return gains[:, None, None] * mixture.astype(np.float64)


def fit_bin_gains(songs: Iterable[Song], transform: Transform = TRANSFORM) -> Float[np.ndarray, "source freq"]:
    """Returns the gain of each source and STFT bin, an equaliser that does not move, in the least squares over songs.

    Args:
        songs: Iterated once.
        transform: The STFT.

    Raises:
        AudioError: There is no song, or shapes do not fit.
        ConfigError: The frames do not overlap enough.
    """
    products, energies = np.zeros(0), np.zeros(transform.n_fft // 2 + 1)
    for mixture, sources in map(_checked, songs):
        for _, spectra in _spectra([mixture, *sources], transform):
            found = (spectra[0].conj() * spectra[1:]).real.sum(axis=(1, 3))
            products = products + found if products.size else found
            energies += np.square(np.abs(spectra[0])).sum(axis=(0, 2))
    return _fitted(products, energies)


def apply_bin_gains(
    gains: Float[np.ndarray, "source freq"], mixture: Mixture, transform: Transform = TRANSFORM
) -> Sources:
    """Returns the mixture through the equaliser of each source.

    Args:
        gains: From `fit_bin_gains`.
        mixture: A song.
        transform: That of the fit.

    Raises:
        ConfigError: The frames do not overlap enough.
    """
    estimates = _Overlap(len(gains), mixture.shape, transform)
    for first, spectra in _spectra([mixture], transform):
        estimates.add(first, gains[:, None, :, None] * spectra)
    return estimates.finish()


def ideal_ratio_mask(
    mixture: Mixture, sources: Sources, transform: Transform = TRANSFORM, *, exponent: float = 2.0
) -> Sources:
    """Returns what the masks of the true sources make of the mixture: a bound for whatever masks with such a transform.

    Each mask is the source's share of all: |S|^exponent over the sum of all sources' (SiSEC's oracle 'IRM2' for 2).

    Args:
        mixture: A song.
        sources: All that is in it: a mask knows of nothing else.
        transform: The STFT.
        exponent: 2 for shares of power, 1 of magnitude.

    Raises:
        AudioError: Shapes do not fit.
        ConfigError: The frames do not overlap enough.
    """
    mixture, sources = _checked(Song(mixture, sources))
    estimates = _Overlap(len(sources), mixture.shape, transform)
    for first, spectra in _spectra([mixture, *sources], transform):
        shares = np.abs(spectra[1:]) ** exponent
        estimates.add(first, _shares(shares, shares.sum(axis=0)) * spectra[0])
    return estimates.finish()


def ideal_binary_mask(mixture: Mixture, sources: Sources, transform: Transform = TRANSFORM) -> Sources:
    """Returns what remains of the mixture where a source has half of its magnitude or more (SiSEC's oracle 'IBM1').

    Masks of several sources may hold one bin together, or none of them.

    Args:
        mixture: A song.
        sources: Those that are looked for.
        transform: The STFT.

    Raises:
        AudioError: Shapes do not fit.
        ConfigError: The frames do not overlap enough.
    """
    mixture, sources = _checked(Song(mixture, sources))
    estimates = _Overlap(len(sources), mixture.shape, transform)
    for first, spectra in _spectra([mixture, *sources], transform):
        share = _shares(np.abs(spectra[1:]), np.abs(spectra[0]))
        estimates.add(first, (share >= 0.5) * spectra[0])
    return estimates.finish()


def oracle_wiener_filter(mixture: Mixture, sources: Sources, transform: Transform = TRANSFORM) -> Sources:
    """Returns the multichannel Wiener filter's estimates for the true powers and covariances (SiSEC's oracle 'MWF').

    Each source has a power per bin and frame, and one spatial covariance per bin, estimated from the true source as in
    sigsep-mus-oracle: normalised to the trace of an identity, with 1e-4 of one added.

    Args:
        mixture: A song.
        sources: All that is in it.
        transform: The STFT.

    Raises:
        AudioError: Shapes do not fit.
        ConfigError: The frames do not overlap enough.
    """
    mixture, sources = _checked(Song(mixture, sources))
    eps, channels = np.finfo(np.float64).eps, mixture.shape[1]
    total: np.ndarray | float = 0.0
    for _, spectra in _spectra(list(sources), transform):
        power = np.square(np.abs(spectra)).mean(axis=3)
        # Frames before the division: (source, freq, channel, channel).
        weighted = spectra / (eps + power)[..., None]
        total = total + np.einsum("snfc,snfd->sfcd", weighted, spectra.conj())
    count = _frames(len(mixture), transform)
    covariances = np.asarray(total) / count
    trace = np.trace(covariances, axis1=2, axis2=3).real
    covariances *= (channels / (trace + eps))[..., None, None]
    covariances += 1e-4 * np.eye(channels)
    inverses = np.linalg.inv(covariances)
    estimates = _Overlap(len(sources), mixture.shape, transform)
    for first, spectra in _spectra([mixture, *sources], transform):
        power = np.einsum("snfc,sfcd,snfd->snf", spectra[1:].conj(), inverses, spectra[1:]).real / channels
        models = power[..., None, None] * covariances[:, None]
        whole = models.sum(axis=0) + eps * np.eye(channels)
        estimates.add(
            first, np.einsum("snfcd,nfd->snfc", models, np.linalg.solve(whole, spectra[0][..., None])[..., 0])
        )
    return estimates.finish()


def _checked(song: Song) -> Song:
    mixture, sources = song
    if sources.ndim != 3 or sources.shape[1:] != mixture.shape or sources.size == 0:
        raise AudioError(
            f"A mixture of shape {mixture.shape} has sources of shape {sources.shape}; give (time, channel) and "
            "(source, time, channel)."
        )
    return song


def _fitted(products: np.ndarray, energy: np.ndarray | float) -> np.ndarray:
    """The solution of least squares."""
    if not products.size:
        raise AudioError("There is no song to fit gains on; give one or more.")
    return _shares(products, energy)


def _shares(parts: np.ndarray, whole: np.ndarray | float) -> np.ndarray:
    """Parts over the whole; zero where that is."""
    wholes = np.broadcast_to(whole, parts.shape)
    return np.divide(parts, wholes, out=np.zeros(parts.shape), where=wholes > 0)


def _window(transform: Transform) -> Float[np.ndarray, " time"]:
    n_fft, hop = transform
    if n_fft % hop or n_fft < 2 * hop:
        raise ConfigError(f"hop_length (= {hop}) must divide n_fft (= {n_fft}) into two parts or more.")
    return np.hanning(n_fft + 1)[:-1]


def _spectra(
    waveforms: Sequence[Mixture], transform: Transform
) -> Iterator[tuple[int, Complex[np.ndarray, "source frame freq channel"]]]:
    """Yields blocks of frames with the number of their first one; every sample lies in n_fft / hop_length frames."""
    window = _window(transform)[:, None]
    n_fft, hop = transform
    length = len(waveforms[0])
    count = _frames(length, transform)
    padding = [(n_fft - hop, count * hop - length), (0, 0)]
    # Views: what is in memory is a copy of each waveform, and the spectra of one block.
    framed = [
        np.lib.stride_tricks.sliding_window_view(np.pad(waveform, padding), n_fft, axis=0)[::hop].swapaxes(1, 2)
        for waveform in waveforms
    ]
    for first in range(0, count, _BLOCK):
        yield first, np.stack([np.fft.rfft(each[first : first + _BLOCK] * window, axis=1) for each in framed])


def _frames(length: int, transform: Transform) -> int:
    return -(-(length + transform.n_fft - transform.hop_length) // transform.hop_length)


class _Overlap:
    """Frames added where they came from, block by block."""

    def __init__(self, sources: int, shape: tuple[int, ...], transform: Transform) -> None:
        self._transform, self._window, self._length = transform, _window(transform)[:, None], shape[0]
        n_fft, hop = transform
        self._sum = np.zeros((sources, (_frames(shape[0], transform) - 1) * hop + n_fft, shape[1]))

    def add(self, first: int, spectra: Complex[np.ndarray, "source frame freq channel"]) -> None:
        n_fft, hop = self._transform
        frames = np.fft.irfft(spectra, n=n_fft, axis=2) * self._window
        for number in range(frames.shape[1]):
            start = (first + number) * hop
            self._sum[:, start : start + n_fft] += frames[:, number]

    def finish(self) -> Sources:
        n_fft, hop = self._transform
        # Of period `hop`, since that divides the frame.
        envelope = np.square(self._window).reshape(-1, hop).sum(axis=0)
        start = n_fft - hop
        covered = self._sum[:, start : start + self._length]
        return covered / np.resize(envelope, self._length)[:, None]
