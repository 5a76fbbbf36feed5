"""What records say together: scores by track, and their aggregates over the tracks that all systems have a score for.

Tables of systems beside each other are made in systems.py, files and pages in report.py.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsep.evaluation.scales import LARGEST_DB, scale_of
from jaxsep.evaluation.whole_track import NAMES

# The row that is the mean over the stems of a track, as the MDX challenges rank.
ALL_STEMS = "(mean of stems)"
AGGREGATES = ("median_of_medians", "mean_of_medians", "median_of_means", "mean_of_means")
_BSS_NAMES = ("SDR", "ISR", "SIR", "SAR")


@dataclass(frozen=True)
class TrackScore:
    """One metric of one stem of one track.

    Attributes:
        system: What was evaluated.
        track: The song.
        stem: Name of a stem of the source set, or `ALL_STEMS`.
        metric: Name of the metric in tables.
        frames_median: The median over frames, NaN where there is no score. Ratios beyond 150 dB are 150 dB.
        frames_mean: The mean over frames, likewise.
        is_exact: Whether the estimate is the true source, sample by sample.
        is_silent: Whether the estimate is silent throughout though the true source is not; of a mean of stems, whether
            one of them is.
    """

    system: str
    track: str
    stem: str
    metric: str
    frames_median: float
    frames_mean: float
    is_exact: bool = False
    is_silent: bool = False


@dataclass(frozen=True)
class Aggregate:
    """One metric of one stem over the tracks for which all systems have a score.

    Attributes:
        system: What was evaluated.
        stem: Name of a stem of the source set, or `ALL_STEMS`.
        metric: Name of the metric in tables.
        tracks: Number of tracks that count.
        silent_estimates: Number of tracks of this system whose estimate is silent throughout.
        median_of_medians: Median over tracks of the median over frames.
        mean_of_medians: Mean over tracks of the median over frames.
        median_of_means: Median over tracks of the mean over frames.
        mean_of_means: Mean over tracks of the mean over frames.
        is_exact: Whether all estimates that count are exact.
        note: What is to be known about the row; often nothing.
    """

    system: str
    stem: str
    metric: str
    tracks: int
    silent_estimates: int
    median_of_medians: float
    mean_of_medians: float
    median_of_means: float
    mean_of_means: float
    is_exact: bool
    note: str


def track_scores(records: Sequence[dict[str, Any]]) -> list[TrackScore]:
    """Returns every score of every record, the mean over stems after those of the stems.

    A track that lacks the score of a stem has no mean over stems.
    """
    found = []
    for record in records:
        own = record["jaxsep"]
        stems = own["settings"]["stems"]
        frames = {
            f"{prefix}{metric}": {target["name"]: _values(target, metric) for target in targets}
            for prefix, targets in (("", record["targets"]), ("museval ", own["museval_targets"]))
            if targets
            for metric in _BSS_NAMES
        }
        whole = {
            NAMES[key]: {stem: [value] for stem, value in values.items() if value is not None}
            for key, values in own["whole_track"].items()
        }
        for metric, by_stem in (frames | whole).items():
            rows = [_score(own, stem, metric, by_stem.get(stem, [])) for stem in stems]
            found += with_mean_of_stems(rows)
    return found


def with_mean_of_stems(rows: Sequence[TrackScore]) -> list[TrackScore]:
    """Returns the scores of all stems of one track, system and metric, and where there are several stems their mean."""
    if len(rows) < 2:
        return list(rows)
    median, mean = (sum(getattr(row, name) for row in rows) / len(rows) for name in ("frames_median", "frames_mean"))
    is_exact, is_silent = all(row.is_exact for row in rows), any(row.is_silent for row in rows)
    first = rows[0]
    return [*rows, TrackScore(first.system, first.track, ALL_STEMS, first.metric, median, mean, is_exact, is_silent)]


def aggregate(scores: Sequence[TrackScore]) -> list[Aggregate]:
    """Returns the aggregates over tracks, in the order in which systems, metrics and stems first occur.

    Of each metric and stem, the tracks count for which all systems have a score: a system that fails on a hard track
    must not gain by it. A system without any score is not waited for.
    """
    common = common_tracks(scores)
    groups: dict[tuple[str, str, str], list[TrackScore]] = {}
    for score in scores:
        groups.setdefault((score.system, score.metric, score.stem), []).append(score)
    known: dict[tuple[str, str], set[str]] = {}
    for score in scores:
        if math.isfinite(score.frames_median):
            known.setdefault((score.metric, score.stem), set()).add(score.track)
    return [
        _aggregated(group, common.get((metric, stem), frozenset()), known.get((metric, stem), set()))
        for (_, metric, stem), group in groups.items()
    ]


def common_tracks(scores: Sequence[TrackScore]) -> dict[tuple[str, str], frozenset[str]]:
    """Returns, by metric and stem, the tracks for which all systems that have any score have one."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for score in scores:
        if math.isfinite(score.frames_median):
            systems = found.setdefault((score.metric, score.stem), {})
            systems.setdefault(score.system, set()).add(score.track)
    return {of: frozenset.intersection(*map(frozenset, systems.values())) for of, systems in found.items()}


def warnings(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what has to be known before any score is read: silent estimates, and tracks that some systems lack."""
    tracks: dict[str, list[str]] = {}
    silent: dict[tuple[str, str], list[str]] = {}
    for record in records:
        own = record["jaxsep"]
        tracks.setdefault(own["system"], []).append(own["track"])
        for stem in own["silent_estimates"]:
            silent.setdefault((own["system"], stem), []).append(own["track"])
    found = [
        f"{system} gives out silence for '{stem}' on {len(names)} of {len(tracks[system])} tracks ({_listed(names)}). "
        "Their SDR, ISR and whole-track SDR count; SIR, SAR and the scale-invariant ratios are not defined there, and "
        "such tracks are left out of these for all systems."
        for (system, stem), names in silent.items()
    ]
    everything = list(dict.fromkeys(name for names in tracks.values() for name in names))
    for system, names in tracks.items():
        if missing := [name for name in everything if name not in names]:
            found.append(
                f"{system} has no scores for {len(missing)} of {len(everything)} tracks ({_listed(missing)}), which "
                "are left out for all systems."
            )
    return found


def remarks(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what the records note: silent stems, lengths that differed, ill-conditioned equations."""
    found = []
    for record in records:
        own = record["jaxsep"]
        where = f"{own['system']}, {own['track']}"
        found += [
            f"{where}: '{stem}' is left out for all systems: its true source is silent."
            for stem in own["silent_references"]
        ]
        found += [
            f"{where}: the estimate of '{stem}' is silent throughout; its SIR and SAR are not defined."
            for stem in own["silent_estimates"]
        ]
        found += [f"{where}: {note}" for note in own["notes"]]
    return list(dict.fromkeys(found))


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _aggregated(group: Sequence[TrackScore], counting: frozenset[str], known: set[str]) -> Aggregate:
    counted = [score for score in group if score.track in counting and math.isfinite(score.frames_median)]
    medians = [score.frames_median for score in counted]
    means = [score.frames_mean for score in counted]
    silent = [score for score in group if score.is_silent]
    first = group[0]
    return Aggregate(
        first.system,
        first.stem,
        first.metric,
        len(counted),
        len(silent),
        _over(np.median, medians),
        _over(np.mean, medians),
        _over(np.median, means),
        _over(np.mean, means),
        bool(counted) and all(score.is_exact for score in counted),
        "; ".join(_notes(silent, len(counted), len(known))),
    )


def _notes(silent: Sequence[TrackScore], counted: int, known: int) -> list[str]:
    notes = []
    if scored := sum(math.isfinite(score.frames_median) for score in silent):
        notes.append(f"silent on {_tracks(scored)}, which count")
    if undefined := len(silent) - scored:
        notes.append(f"not defined on {_tracks(undefined)}, where the estimate is silent")
    if counted < known:
        notes.append(f"over the {counted} of {_tracks(known)} that all systems have a score for")
    return notes


def _tracks(count: int) -> str:
    return f"{count} track{'s' * (count != 1)}"


def _score(own: Mapping[str, Any], stem: str, metric: str, values: Sequence[float]) -> TrackScore:
    is_ratio = scale_of(metric).in_decibels
    is_exact = is_ratio and stem in own["exact_estimates"]
    if is_exact and not np.isfinite(values).any():
        values = [LARGEST_DB]  # museval's records have no infinity
    bounded = np.clip(values, -LARGEST_DB, LARGEST_DB) if is_ratio else np.asarray(values, float)
    return TrackScore(
        own["system"],
        own["track"],
        stem,
        metric,
        _over(np.median, bounded),
        _over(np.mean, bounded),
        is_exact,
        stem in own["silent_estimates"],
    )


def _values(target: dict[str, Any], metric: str) -> list[float]:
    return [frame["metrics"][metric] for frame in target["frames"]]


def _over(function: Callable[[np.ndarray], Any], values: Sequence[float] | np.ndarray) -> float:
    """Over what is finite, as pandas does in museval; NaN where nothing is."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return float(function(finite)) if finite.size else math.nan
