"""Ratios over whole tracks: the global SDR of the MDX challenges, and the scale-invariant SDR, SIR and SAR.

numpy in float64. BSS Eval, frame by frame and with distortion filters, is in `bss_eval`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from jaxsep.errors import AudioError

# 'delta' in the scoring code of the Music Demixing Challenge 2021, which later challenges and Demucs kept.
MDX_EPS = 1e-7


def global_sdr(
    references: ArrayLike,
    estimates: ArrayLike,
    *,
    eps: float = MDX_EPS,
) -> Float[np.ndarray, "*source"]:
    """Signal-to-distortion ratio of whole tracks, as the MDX and SDX challenges rank systems.

    With sums over all samples and channels of a track, reference s and estimate e:

        SDR = 10 log10((sum s^2 + eps) / (sum (s - e)^2 + eps))

    The score of a track is the mean over its stems, that of a system the mean over tracks (Mitsufuji et al., Music
    Demixing Challenge 2021, Frontiers in Signal Processing 2022). It depends on the estimate's gain: silence scores 0
    dB.

    Args:
        references: True sources (time, channel), or (source, time, channel) for one score per source; anything that
            `np.asarray` takes.
        estimates: What a separation gave, of the same shape.
        eps: Energy added to both sums. It bounds the score of a perfect estimate (100 dB for a reference of energy
            1000) and makes a silent estimate of a silent reference score 0 dB. With 0 these two are inf and NaN.

    Returns:
        Decibels, one per source.

    Raises:
        AudioError: The shapes differ, nothing is there to score, or a value is not finite.
    """
    true, estimated = as_pair(references, estimates)
    signal = _energy(true) + eps
    distortion = _energy(true - estimated) + eps
    return _decibels(signal, distortion)


def si_sdr(
    references: ArrayLike,
    estimates: ArrayLike,
    *,
    zero_mean: bool = False,
) -> Float[np.ndarray, "*source"]:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al., 'SDR - half-baked or well done?', ICASSP 2019).

    With inner products over all samples and channels, so that one gain is forgiven for a whole track and its stereo
    image is not:

        alpha = <e, s> / <s, s>        SI-SDR = 10 log10(|alpha s|^2 / |alpha s - e|^2)

    Args:
        references: True sources (time, channel), or (source, time, channel) for one score per source; anything that
            `np.asarray` takes.
        estimates: What a separation gave, of the same shape.
        zero_mean: Whether the mean over time of each channel is taken from both first. The paper assumes signals of
            zero mean; torchmetrics does not subtract it unless asked, asteroid does.

    Returns:
        Decibels, one per source: inf for a perfect estimate, -inf for one orthogonal to the reference, NaN where the
        reference or the estimate is silent, for which the ratio is not defined.

    Raises:
        AudioError: The shapes differ, nothing is there to score, or a value is not finite.
    """
    true, estimated = as_pair(references, estimates)
    if zero_mean:
        true = true - true.mean(axis=-2, keepdims=True)
        estimated = estimated - estimated.mean(axis=-2, keepdims=True)
    energy = _energy(true)
    with np.errstate(invalid="ignore"):
        gain = np.sum(true * estimated, axis=(-2, -1)) / energy
    projection = gain[..., None, None] * true
    return _decibels(_energy(projection), _energy(projection - estimated))


def si_sir_and_sar(
    references: Float[np.ndarray, "source time channel"], estimates: Float[np.ndarray, "source time channel"]
) -> tuple[Float[np.ndarray, " source"], Float[np.ndarray, " source"]]:
    """Scale-invariant source-to-interference and source-to-artefacts ratios (Le Roux et al., ICASSP 2019).

    What an estimate has beside its scaled source is split by the orthogonal projection onto all sources: interference
    lies in their span, and artefacts are the rest. As in `si_sdr`, one gain is forgiven for all channels.

    Args:
        references: All true sources of the track.
        estimates: What a separation gave, of the same shape.

    Returns:
        SI-SIR and SI-SAR in dB, one per source; NaN where the reference or the estimate is silent.

    Raises:
        AudioError: The shapes differ, nothing is there to score, or a value is not finite.
    """
    true, estimated = as_pair(references, estimates)
    sums = TrackSums.of(true, estimated)
    return sums.si_sir(), sums.si_sar()


@dataclasses.dataclass
class TrackSums:
    """The sums that these ratios are made of, over a track that is read stretch by stretch.

    Attributes:
        gram: Sums of products of the references, each with each.
        cross: Sums of products of each reference with each estimate.
        estimates: Sum of e^2, one for each source.
        differences: Sum of (s - e)^2.
    """

    gram: Float[np.ndarray, "source source"]
    cross: Float[np.ndarray, "source source"]
    estimates: Float[np.ndarray, " source"]
    differences: Float[np.ndarray, " source"]

    @classmethod
    def of(
        cls, references: Float[np.ndarray, "source time channel"], estimates: Float[np.ndarray, "source time channel"]
    ) -> "TrackSums":
        """Returns the sums over one stretch, in float64."""
        true, estimated = references.astype(np.float64), estimates.astype(np.float64)
        rows = true.reshape(len(true), -1)
        return cls(
            rows @ rows.T,
            rows @ estimated.reshape(len(estimated), -1).T,
            np.asarray(_energy(estimated)),
            np.asarray(_energy(true - estimated)),
        )

    def __add__(self, other: "TrackSums") -> "TrackSums":
        return TrackSums(*(mine + getattr(other, name) for name, mine in vars(self).items()))

    @property
    def references(self) -> Float[np.ndarray, " source"]:
        """Sum of s^2, one for each source."""
        return np.diagonal(self.gram)

    def global_sdr(self, *, eps: float = MDX_EPS) -> Float[np.ndarray, " source"]:
        """Returns what the function `global_sdr` says of the whole track."""
        return _decibels(self.references + eps, self.differences + eps)

    def si_sdr(self) -> Float[np.ndarray, " source"]:
        """Returns what the function `si_sdr` says of the whole track.

        The rest is the difference of two sums, so that it is rounding beyond some 140 dB, and infinite from there on
        where the function would still find a number.
        """
        target = self._target()
        return _decibels(target, self._above_rounding(self.estimates - target))

    def si_sir(self) -> Float[np.ndarray, " source"]:
        """Returns the SI-SIR of the whole track; see `si_sir_and_sar`."""
        target = self._target()
        return _decibels(target, self._above_rounding(self._inside() - target))

    def si_sar(self) -> Float[np.ndarray, " source"]:
        """Returns the SI-SAR of the whole track; see `si_sir_and_sar`."""
        return _decibels(self._target(), self._above_rounding(self.estimates - self._inside()))

    def _target(self) -> Float[np.ndarray, " source"]:
        """The energy of each estimate's projection onto its own source."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.square(np.diagonal(self.cross)) / self.references

    def _inside(self) -> Float[np.ndarray, " source"]:
        """The energy of each estimate's projection onto all sources, which may be silent or depend on each other."""
        return np.sum(self.cross * (np.linalg.pinv(self.gram, hermitian=True) @ self.cross), axis=0)

    def _above_rounding(self, rest: Float[np.ndarray, " source"]) -> Float[np.ndarray, " source"]:
        return np.where(rest < 1e-14 * self.estimates, 0.0, rest)


def as_pair(references: ArrayLike, estimates: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns both in float64, once they are known to be fit for scoring.

    Args:
        references: True sources, (..., time, channel).
        estimates: Of the same shape.

    Raises:
        AudioError: The shapes differ, a track has no samples, or a value is not finite.
    """
    true, estimated = np.asarray(references), np.asarray(estimates)
    if true.shape != estimated.shape:
        raise AudioError(
            f"the estimates have the shape {estimated.shape} and the references {true.shape}, but each sample is "
            "compared with the one at its place: cut or pad the estimates to the length and channels of the references"
        )
    if true.ndim < 2 or true.size == 0:
        raise AudioError(
            f"waveforms of shape {true.shape} cannot be scored: give (time, channel) with at least one sample"
        )
    for name, waveforms in (("references", true), ("estimates", estimated)):
        if not np.all(np.isfinite(waveforms)):
            # A median that skips NaN would hide it.
            raise AudioError(
                f"the {name} hold values that are not finite, which have no score: look for the step that made them"
            )
    return true.astype(np.float64, copy=False), estimated.astype(np.float64, copy=False)


def _energy(waveforms: np.ndarray) -> np.ndarray | np.float64:
    return np.sum(np.square(waveforms), axis=(-2, -1))


def _decibels(numerator: np.ndarray | np.float64, denominator: np.ndarray | np.float64) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10.0 * np.log10(numerator / denominator))
