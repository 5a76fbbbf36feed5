"""What BSS Eval is given and what it gives, whoever computes it: checked pairs of stems, frames, scores.

The arithmetic is in `bss_eval`, and museval's in `museval_wrapper`.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from jaxsep.errors import AudioError, ConfigError, nearest
from jaxsep.metrics.sdr import as_pair

METRICS = ("sdr", "isr", "sir", "sar")

# More channels than this, and more than samples, are surely samples: each would be given 512 taps for each other.
_MOST_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class BssEvalScores:
    """Scores of one track, in dB, stem by stem and frame by frame.

    A frame in which the reference or the estimate of *any* stem is silent is NaN for every stem, as in museval. An
    estimate that is silent throughout takes no frame from the others; its own SIR and SAR are NaN.

    Attributes:
        stems: Names of the rows.
        sdr: Source to distortion ratio: everything that differs from the reference counts.
        isr: Image to spatial distortion ratio: what a filter of the true source leaves.
        sir: Source to interference ratio: what comes from the other sources.
        sar: Source to artefacts ratio: what comes from no source.
        window_seconds: Length of a frame.
        hop_seconds: From one frame's start to the next.
        condition: Of the filters' equations, estimated (1-norm); infinite where they are singular in float64, NaN where
            it is not known. Beyond some 1e12, as in lossy files, in which nothing is left above their bandwidth, what
            is next to nothing decides about ISR, SIR and SAR, in museval too. SDR needs no filters.
        lost_frames: Frames of each stem whose estimate is silent though every reference sounds; empty where
            they are not counted.
    """

    stems: tuple[str, ...]
    sdr: Float[np.ndarray, "source frame"]
    isr: Float[np.ndarray, "source frame"]
    sir: Float[np.ndarray, "source frame"]
    sar: Float[np.ndarray, "source frame"]
    window_seconds: float
    hop_seconds: float
    condition: float = float("nan")
    lost_frames: tuple[int, ...] = ()

    def frames(self, stem: str, metric: str = "sdr") -> Float[np.ndarray, " frame"]:
        """Returns the scores of one stem, one per frame.

        Raises:
            ConfigError: There is no such stem or metric.
        """
        if stem not in self.stems:
            raise ConfigError(f"there are no scores of a stem '{stem}'.{nearest(stem, self.stems)}")
        if metric not in METRICS:
            raise ConfigError(f"there is no metric '{metric}'.{nearest(metric, METRICS)}")
        return getattr(self, metric)[self.stems.index(stem)]

    def median(self, stem: str, metric: str = "sdr") -> float:
        """Returns the median over frames, which is a track's score in SiSEC 2018 and in most papers since.

        As in museval's own tables, frames that are NaN or infinite do not count; where none is left the median is NaN.

        Args:
            stem: Which stem.
            metric: Which of the four ratios.

        Raises:
            ConfigError: There is no such stem or metric.
        """
        scores = self.frames(stem, metric)
        scores = scores[np.isfinite(scores)]
        return float(np.median(scores)) if scores.size else float("nan")

    def medians(self) -> dict[str, dict[str, float]]:
        """Returns every median, by stem and metric."""
        return {stem: {metric: self.median(stem, metric) for metric in METRICS} for stem in self.stems}


def as_stem_pairs(
    references: Mapping[str, ArrayLike], estimates: Mapping[str, ArrayLike], *, silent_estimates: bool = False
) -> tuple[tuple[str, ...], tuple[Float[np.ndarray, "source time channel"], Float[np.ndarray, "source time channel"]]]:
    """Returns the stems in the order of `references`, and both in float64, once they are known to be fit for BSS Eval.

    Args:
        references: True sources by stem, each (time, channel).
        estimates: For the same stems and of the same shapes.
        silent_estimates: Whether estimates may be silent throughout.

    Raises:
        AudioError: A stem is silent throughout, shapes differ, a value is not finite, or channels come first.
        ConfigError: The stems differ, or there is none.
    """
    stems = tuple(references)
    if set(stems) != set(estimates):
        raise ConfigError(
            f"the estimates are of {sorted(estimates)} and the references of {sorted(references)}, but stems are "
            "scored in pairs: give both the same names"
        )
    if not stems:
        raise ConfigError("there is no stem to score: give at least one reference and its estimate")
    pairs = {stem: _checked(stem, references[stem], estimates[stem], silent_estimates) for stem in stems}
    shapes = {stem: pair[0].shape for stem, pair in pairs.items()}
    if len(set(shapes.values())) > 1:
        raise AudioError(
            f"the stems have different shapes {shapes}, but are parts of one mixture: give all the same length"
        )
    return stems, (np.stack([pairs[stem][0] for stem in stems]), np.stack([pairs[stem][1] for stem in stems]))


def frame_lengths(window_seconds: float, hop_seconds: float, sample_rate: int) -> tuple[int, int]:
    """Returns the length and the hop of frames, in samples.

    Raises:
        ConfigError: One of them holds no sample.
    """
    window, hop = round(window_seconds * sample_rate), round(hop_seconds * sample_rate)
    if window < 1 or hop < 1:
        raise ConfigError(
            f"frames of {window_seconds} s every {hop_seconds} s at {sample_rate} Hz have a length of {window} and a "
            f"hop of {hop} samples, but both must be at least 1: give longer durations"
        )
    return window, hop


def are_silent(sources: Float[np.ndarray, "source time channel"]) -> Bool[np.ndarray, " source"]:
    """Says of each source whether it is silence to museval: its channels sum to zero at every sample."""
    # Channel by channel: reductions over a last axis of two are slow.
    summed = functools.reduce(np.add, np.moveaxis(sources, 2, 0))
    return ~np.any(summed, axis=1)


def _checked(
    stem: str, reference: ArrayLike, estimate: ArrayLike, silent_estimate: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a stem's pair in float64, or says what is wrong with it."""
    try:
        pair = as_pair(reference, estimate)
    except AudioError as error:
        raise AudioError(f"stem '{stem}': {error}") from None
    for name, waveform in zip(("reference", "estimate"), pair, strict=True):
        if waveform.ndim != 2:
            raise AudioError(f"the {name} of stem '{stem}' has the shape {waveform.shape}: give (time, channel)")
        if waveform.shape[1] > max(len(waveform), _MOST_CHANNELS):
            raise AudioError(
                f"the {name} of stem '{stem}' has {len(waveform)} samples of {waveform.shape[1]} channels, but audio "
                "is (time, channel): transpose it"
            )
        if are_silent(waveform[None])[0] and not (name == "estimate" and silent_estimate):
            raise AudioError(
                f"the {name} of stem '{stem}' is silent throughout (or its channels cancel each other), for which BSS "
                "Eval is not defined: leave the stem out of references and estimates, or use global_sdr"
            )
    return pair
