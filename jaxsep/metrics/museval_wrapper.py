"""BSS Eval v4 as museval computes it: SDR, ISR, SIR and SAR of stems, frame by frame.

museval does the arithmetic; here are only its loading, the checks before it, and the result.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import types
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxsep.errors import AudioError, ConfigError, JaxsepError, nearest
from jaxsep.metrics.sdr import as_pair

METRICS = ("sdr", "isr", "sir", "sar")


@dataclasses.dataclass(frozen=True)
class MusevalScores:
    """Scores of one track, in dB, stem by stem and frame by frame.

    A frame in which the reference or the estimate of *any* stem is silent is NaN for every stem.

    Attributes:
        stems: Names of the rows.
        sdr: Source to distortion ratio: everything that differs from the reference counts.
        isr: Image to spatial distortion ratio: what a filter of the true source leaves.
        sir: Source to interference ratio: what comes from the other sources.
        sar: Source to artefacts ratio: what comes from no source.
        window_seconds: Length of a frame.
        hop_seconds: From one frame's start to the next.
    """

    stems: tuple[str, ...]
    sdr: Float[np.ndarray, "source frame"]
    isr: Float[np.ndarray, "source frame"]
    sir: Float[np.ndarray, "source frame"]
    sar: Float[np.ndarray, "source frame"]
    window_seconds: float
    hop_seconds: float

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


def museval_scores(
    references: Mapping[str, np.ndarray],
    estimates: Mapping[str, np.ndarray],
    *,
    sample_rate: int,
    window_seconds: float = 1.0,
    hop_seconds: float = 1.0,
) -> MusevalScores:
    """Scores the stems of one track by BSS Eval v4 (Stöter, Liutkus and Ito, LVA/ICA 2018).

    The scores are taken in frames. What remains of the track after the last whole frame does not count, and a track
    shorter than a frame is one frame. SDR is the plain ratio of the reference to the difference. ISR, SIR and SAR
    divide that difference by filters of 512 taps, fitted once on the whole track, so they depend on the stems that
    are scored together; so does every median, because of the frames that silence takes out (see `MusevalScores`).

    Args:
        references: True sources by stem, each (time, channel).
        estimates: What a separation gave, for the same stems and of the same shapes. museval itself would pad or cut;
            here a length that differs is an error, because it is seldom the length alone that is wrong then.
        sample_rate: Of both, in Hz.
        window_seconds: Length of a frame.
        hop_seconds: From one frame's start to the next.

    Returns:
        Scores with the stems in the order of `references`.

    Raises:
        AudioError: A stem of the references or the estimates is silent throughout, for which BSS Eval has no answer
            (its channels cancelling each other counts as silence to museval); shapes differ; a value is not finite.
        ConfigError: The stems differ, or a duration holds no sample.
        JaxsepError: museval is not installed.
    """
    stems = tuple(references)
    if set(stems) != set(estimates):
        raise ConfigError(
            f"the estimates are of {sorted(estimates)} and the references of {sorted(references)}, but stems are "
            "scored in pairs: give both the same names"
        )
    if not stems:
        raise ConfigError("there is no stem to score: give at least one reference and its estimate")
    window, hop = round(window_seconds * sample_rate), round(hop_seconds * sample_rate)
    if window < 1 or hop < 1:
        raise ConfigError(
            f"frames of {window_seconds} s every {hop_seconds} s at {sample_rate} Hz have a length of {window} and a "
            f"hop of {hop} samples, but both must be at least 1: give longer durations"
        )
    pairs = {stem: _checked(stem, references[stem], estimates[stem]) for stem in stems}
    shapes = {stem: pair[0].shape for stem, pair in pairs.items()}
    if len(set(shapes.values())) > 1:
        raise AudioError(
            f"the stems have different shapes {shapes}, but are parts of one mixture: give all the same length"
        )
    sdr, isr, sir, sar, _ = _load_museval_metrics().bss_eval(
        np.stack([pairs[stem][0] for stem in stems]),
        np.stack([pairs[stem][1] for stem in stems]),
        window=window,
        hop=hop,
        compute_permutation=False,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    return MusevalScores(stems, sdr, isr, sir, sar, window_seconds, hop_seconds)


def _checked(stem: str, reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a stem's pair in float64, or says what is wrong with it."""
    try:
        pair = as_pair(reference, estimate)
    except AudioError as error:
        raise AudioError(f"stem '{stem}': {error}") from None
    for name, waveform in zip(("reference", "estimate"), pair, strict=True):
        if waveform.ndim != 2:
            raise AudioError(f"the {name} of stem '{stem}' has the shape {waveform.shape}: give (time, channel)")
        if not np.any(waveform.sum(axis=1)):
            raise AudioError(
                f"the {name} of stem '{stem}' is silent throughout (or its channels cancel each other), for which BSS "
                "Eval is not defined: leave the stem out of references and estimates, or use global_sdr"
            )
    return pair


@functools.cache
def _load_museval_metrics() -> types.ModuleType:
    """Loads museval's file of metrics without the package around it.

    The package imports musdb and stempeg, and stempeg raises where the programs ffmpeg and ffprobe are missing; the
    metrics need numpy and scipy alone.

    Raises:
        JaxsepError: museval or scipy is not installed.
    """
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise JaxsepError("BSS Eval scores need museval, which is not installed: pip install 'jaxsep[evaluate]'")
    path = pathlib.Path(package.submodule_search_locations[0]) / "metrics.py"
    # museval 0.4.1 catches a singular matrix under a name that numpy 2.4 no longer has, and would die of that name
    # instead.
    source = path.read_text(encoding="utf-8").replace("np.linalg.linalg.LinAlgError", "np.linalg.LinAlgError")
    module = types.ModuleType("museval_metrics")
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except ImportError as error:
        raise JaxsepError(f"museval cannot be loaded ({error}): pip install 'jaxsep[evaluate]'") from error
    return module
