"""One track of one system scored: its record, a JSON file that museval's own tools read too.

Which tracks and systems there are is in evaluate.py, what becomes of the records in report.py.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
from jaxtyping import Float

from jaxsep.config import Config
from jaxsep.errors import AudioError, JaxsepError
from jaxsep.evaluation.baselines import (
    SISEC,
    ideal_binary_mask,
    ideal_ratio_mask,
    oracle_wiener_filter,
)
from jaxsep.evaluation.tracks import MIXTURE, AudioStream, TrueTrack, summed
from jaxsep.evaluation.whole_track import NAMES, scores_of_sums, scores_of_waveforms
from jaxsep.metrics.bss_eval import bss_eval, bss_eval_streamed
from jaxsep.metrics.frame_scores import METRICS, BssEvalScores, are_silent
from jaxsep.metrics.museval_wrapper import museval_scores
from jaxsep.metrics.sdr import TrackSums
from jaxsep.naming import new_files
from jaxsep.version import __version__

BSS_EVAL, MUSEVAL = "bss-eval", "museval"
ALL_METRICS = (BSS_EVAL, MUSEVAL, *NAMES)

# SiSEC 2018's oracles, with its transform.
_ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "irm1": lambda mixture, sources: ideal_ratio_mask(mixture, sources, SISEC, exponent=1.0),
    "irm2": lambda mixture, sources: ideal_ratio_mask(mixture, sources, SISEC, exponent=2.0),
    "ibm1": lambda mixture, sources: ideal_binary_mask(mixture, sources, SISEC),
    "mwf": lambda mixture, sources: oracle_wiener_filter(mixture, sources, SISEC),
}
BASELINES = (MIXTURE, *_ORACLES)
# Records of another format are made anew: 2 scores estimates that are silent throughout.
RECORD_FORMAT = 2
# Music in 16 bits has some 1e10, that of AAC 1e14 and more.
_ILL_CONDITIONED = 1e12

_Blocks = Callable[[], Iterator[np.ndarray]]
_Pair = tuple[Float[np.ndarray, "source time channel"], Float[np.ndarray, "source time channel"]]


Metric = Literal[
    "bss-eval",
    "museval",
    "sdr",
    "si-sdr",
    "si-sir",
    "si-sar",
    "log-wmse",
    "spectral-distance",
    "bleedless",
    "fullness",
]


class Settings(Config):
    """What decides about the numbers, and is recorded with them.

    Attributes:
        metrics: Which of `ALL_METRICS`; 'sdr' is that of the MDX challenges, over the whole track.
        stems: The source set. ISR, SIR, SAR and the frames that silence takes out depend on all of it.
        window_seconds: Length of BSS Eval's frames.
        hop_seconds: From one frame's start to the next.
    """

    metrics: tuple[Metric, ...] = ("bss-eval", "sdr", "si-sdr")
    stems: tuple[str, ...]
    window_seconds: float = pydantic.Field(default=1.0, gt=0, allow_inf_nan=False)
    hop_seconds: float = pydantic.Field(default=1.0, gt=0, allow_inf_nan=False)


@dataclass(frozen=True)
class ScoringJob:
    """One track of one system.

    Attributes:
        track: The song and its true sources.
        system: What is evaluated.
        estimates: By stem; None for a baseline, which is computed here.
        settings: What is scored, and how.
        provenance: Of the estimates, to be recorded.
        output: The record's file.
        replaces: Whether a record that has its name by the time that this one is complete goes.
    """

    track: TrueTrack
    system: str
    estimates: Mapping[str, AudioStream] | None
    settings: Settings
    provenance: Mapping[str, Any]
    output: Path
    replaces: bool = False

    def inputs(self) -> dict[str, list[int]]:
        """Returns the files that the record depends on, each with its size and time of change."""
        streams = [stream for streams in self.track.sources(self.settings.stems).values() for stream in streams]
        streams += self.track.mixture_streams()
        if self.estimates is not None and "model" not in self.provenance:  # a model's estimates are temporary
            streams += [self.estimates[stem] for stem in self.settings.stems]
        return {os.path.abspath(stream.path): stream.state() for stream in streams}


def score_track(job: ScoringJob) -> JaxsepError | None:
    """Scores a track and writes its record, under its name only when it is complete.

    **Silence.** A stem whose reference is silent throughout has no score, whatever the system, and is not in the source
    set of this track, which museval would refuse. One whose estimate is silent throughout keeps its SDR and ISR, which
    need no filters (0 dB for zeros), and its reference keeps its place among the sources of the others; SIR, SAR and
    SI-SDR are not defined for it. The record says so.

    **Lengths.** As in museval, estimates are cut or filled with silence to the length of the references; the record
    says so.

    Returns:
        What went wrong with this track, in one sentence; None if nothing did.
    """
    try:
        record = _score(job)
        with new_files([job.output], replaced=[job.output] if job.replaces else []) as (temporary,):
            # NaN is no JSON, but what museval writes and reads.
            temporary.write_text(json.dumps(record, indent=1, allow_nan=True) + "\n", encoding="utf-8")
    except JaxsepError as error:
        return type(error)(f"The track '{job.track.name}' ({job.system}) cannot be scored: {error}")
    except OSError as error:
        return AudioError(f"The track '{job.track.name}' ({job.system}) cannot be scored: {error}.")
    return None


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns a record; None where the file is none of ours."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if isinstance(record["jaxsep"]["settings"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _score(job: ScoringJob) -> dict[str, Any]:
    settings = job.settings
    references: list[_Blocks] = [partial(summed, streams) for streams in job.track.sources(settings.stems).values()]
    estimates = _estimates(job, references)
    stems = settings.stems
    notes: list[str] = []
    sums, silent_true, silent_estimated, length = _measure(references, estimates, stems, notes)
    scored = [index for index in range(len(stems)) if not silent_true[index]]
    silent = [stems[index] for index in scored if silent_estimated[index]]
    exact = [stems[index] for index in scored if not sums.differences[index]]
    names = [stems[index] for index in scored]

    def stretches() -> Iterator[_Pair]:
        return _aligned([references[index] for index in scored], [estimates[index] for index in scored])

    windows: dict[str, Any] = {"window_seconds": settings.window_seconds, "hop_seconds": settings.hop_seconds}
    frames: dict[str, list[dict[str, Any]]] = {}
    rate = job.track.sample_rate
    if BSS_EVAL in settings.metrics and names:
        scores = bss_eval_streamed(stretches, names, sample_rate=rate, **windows)
        frames[BSS_EVAL] = _targets(scores)
        notes += _notes_on_frames(scores)
    if MUSEVAL in settings.metrics and names:
        true, estimated = (np.concatenate(parts, axis=1) for parts in zip(*stretches(), strict=True))
        frames[MUSEVAL] = _targets(_by_museval(names, true, estimated, silent, rate, windows))
    whole = scores_of_sums(settings.metrics, sums, stems, silent_true) | scores_of_waveforms(
        settings.metrics,
        {
            stem: (partial(_all, reference, length), partial(_all, estimate, length))
            for stem, reference, estimate in zip(stems, references, estimates, strict=True)
        },
        partial(_all, partial(summed, job.track.mixture_streams()), length),
        sample_rate=rate,
        silent=silent_true,
        notes=notes,
    )
    by_museval = BSS_EVAL not in settings.metrics and MUSEVAL in settings.metrics
    return {
        "museval_version": metadata.version("museval") if by_museval else f"jaxsep {__version__}, BSS Eval v4",
        "targets": frames.get(MUSEVAL if by_museval else BSS_EVAL, []),
        "jaxsep": {
            "version": __version__,
            "format": RECORD_FORMAT,
            "track": job.track.name,
            "system": job.system,
            "settings": settings.model_dump(mode="json"),
            "provenance": dict(job.provenance),
            "inputs": job.inputs(),
            "whole_track": whole,
            # A second time by museval, where both were asked for.
            "museval_targets": [] if by_museval else frames.get(MUSEVAL, []),
            "silent_references": [stem for stem in stems if stem not in names],
            "silent_estimates": silent,
            "exact_estimates": exact,
            "notes": notes,
        },
    }


def _notes_on_frames(scores: BssEvalScores) -> list[str]:
    notes = []
    for stem, lost in zip(scores.stems, scores.lost_frames, strict=True):
        if lost:
            notes.append(
                f"The estimate of '{stem}' is silent in {lost} of {scores.sdr.shape[1]} frames in which all true "
                "sources sound; as in museval, they do not count for any stem. SDR over the whole track counts them."
            )
    if scores.condition > _ILL_CONDITIONED:
        notes.append(
            f"The equations of the distortion filters have a condition of {scores.condition:.0e}, as those of "
            "lossy or band-limited audio have: what is next to nothing decides about ISR, SIR and SAR here, with "
            "museval too; SDR needs no filters."
        )
    return notes


def _by_museval(
    names: Sequence[str],
    true: Float[np.ndarray, "source time channel"],
    estimated: Float[np.ndarray, "source time channel"],
    silent: Sequence[str],
    sample_rate: int,
    windows: Mapping[str, float],
) -> BssEvalScores:
    """Returns museval's scores, which refuses estimates that are silent throughout: those of such stems are ours."""
    # No estimate changes another one's scores but by the frames that its silence takes out. The truth takes none.
    fit = [true[index] if stem in silent else estimated[index] for index, stem in enumerate(names)]
    by_name = dict(zip(names, true, strict=True))
    scores = museval_scores(by_name, dict(zip(names, fit, strict=True)), sample_rate=sample_rate, **windows)
    if not silent:
        return scores
    ours = bss_eval(by_name, dict(zip(names, estimated, strict=True)), sample_rate=sample_rate, **windows)
    rows = np.array([stem in silent for stem in names])[:, None]
    return replace(
        scores, **{metric: np.where(rows, getattr(ours, metric), getattr(scores, metric)) for metric in METRICS}
    )


def _estimates(job: ScoringJob, references: Sequence[_Blocks]) -> list[_Blocks]:
    if job.estimates is not None:
        return [job.estimates[stem].blocks for stem in job.settings.stems]
    if job.system == MIXTURE:
        return [partial(summed, job.track.mixture_streams())] * len(references)
    # Oracles hold the track in memory. They know of all that is in the mixture, and not of the stems alone.
    streams = [*job.track.sources(job.settings.stems).values(), *((job.track.parts[name],) for name in _others(job))]
    waveforms = [np.concatenate(list(summed(each))) for each in streams]
    mixture = np.concatenate(list(summed(job.track.mixture_streams())))
    length = max(map(len, (*waveforms, mixture)))
    sources = np.stack([_fit(waveform, length) for waveform in waveforms])
    found = _ORACLES[job.system](_fit(mixture, length), sources)
    return [partial(iter, [estimate]) for estimate in found[: len(job.settings.stems)]]


def _others(job: ScoringJob) -> list[str]:
    """Returns the parts of the track that no stem holds."""
    used = {stream for streams in job.track.sources(job.settings.stems).values() for stream in streams}
    return [name for name, stream in job.track.parts.items() if stream not in used]


def _measure(
    references: Sequence[_Blocks], estimates: Sequence[_Blocks], stems: Sequence[str], notes: list[str]
) -> tuple[TrackSums, np.ndarray, np.ndarray, int]:
    """Returns the sums over the track, which references and estimates are silent throughout, and the length."""
    sums: TrackSums | None = None
    silent = np.ones((2, len(stems)), bool)
    length = 0
    for pair in _aligned(references, estimates):
        found = TrackSums.of(*pair)
        sums = found if sums is None else sums + found
        silent &= np.stack([are_silent(part) for part in pair])
        length += pair[0].shape[1]
    if sums is None:
        raise AudioError("it holds no samples")
    for stem, estimate in zip(stems, estimates, strict=True):
        estimated = sum(len(block) for block in estimate())
        if estimated != length:
            what = "cut" if estimated > length else "filled with silence"
            notes.append(f"The estimate of '{stem}' has {estimated} samples and was {what} to {length}.")
    return sums, silent[0], silent[1], length


def _aligned(references: Sequence[_Blocks], estimates: Sequence[_Blocks]) -> Iterator[_Pair]:
    """Yields stretches of both, as long as the longest reference: museval's rule for estimates that are not."""
    true = [_Reader(each()) for each in references]
    estimated = [_Reader(each()) for each in estimates]
    while True:
        length = max(reader.ready() for reader in true)
        if not length:
            return
        yield tuple(np.stack([reader.take(length) for reader in readers]) for readers in (true, estimated))  # type: ignore[misc]


class _Reader:
    """Blocks of any length, taken in others."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._pending = next(blocks)

    def ready(self) -> int:
        """Returns how much is there: nothing only at the end."""
        if not len(self._pending):
            self._pending = next(self._blocks, self._pending)
        return len(self._pending)

    def take(self, length: int) -> np.ndarray:
        """Returns so much, silence after the end."""
        while len(self._pending) < length and (block := next(self._blocks, None)) is not None:
            self._pending = np.concatenate([self._pending, block]) if len(self._pending) else block
        taken, self._pending = self._pending[:length], self._pending[length:]
        return _fit(taken, length)


def _all(blocks: _Blocks, length: int) -> np.ndarray:
    return _fit(np.concatenate(list(blocks())), length)


def _fit(waveform: np.ndarray, length: int) -> np.ndarray:
    return np.pad(waveform[:length], [(0, length - len(waveform[:length])), (0, 0)])


def _targets(scores: BssEvalScores) -> list[dict[str, Any]]:
    """Returns what museval's schema calls targets: five decimals, and NaN for what is not finite, as there."""

    def quantised(value: float) -> float:
        return round(value, 5) if math.isfinite(value) else math.nan

    return [
        {
            "name": stem,
            "frames": [
                {
                    "time": index * scores.hop_seconds,
                    "duration": scores.window_seconds,
                    "metrics": {
                        metric.upper(): quantised(float(scores.frames(stem, metric)[index])) for metric in METRICS
                    },
                }
                for index in range(scores.sdr.shape[1])
            ],
        }
        for stem in scores.stems
    ]
