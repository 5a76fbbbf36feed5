"""Systems beside each other: a table of systems by stems for each metric, paired differences, groups of tracks.

What is compared are scores over common tracks, as in aggregates.py; texts and pages are made in report.py and page.py.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxsep.evaluation.aggregates import Aggregate, TrackScore, aggregate, common_tracks
from jaxsep.evaluation.paired import PairedDifference, holm, paired_difference
from jaxsep.evaluation.scales import LARGEST_DB, Scale, in_words, scale_of
from jaxsep.evaluation.tracks import MIXTURE


@dataclass(frozen=True)
class SystemScore:
    """The score of one system for one stem, by the average that its metric is compared by.

    Attributes:
        metric: Name of the metric in tables.
        stem: Name of a stem of the source set, or `ALL_STEMS`.
        system: What was evaluated.
        tracks: Number of tracks that count.
        average: Name of the average over tracks.
        value: The score, NaN where there is none.
        is_best: Whether none of the systems is better, to two decimals. Baselines are left aside, and one system alone
            is not the best.
        improvement: Mean over tracks of the difference from the mixture's score, NaN where the mixture was not scored,
            or of artifacts, of which it has none.
        is_exact: Whether all estimates that count are exact.
        lower_is_better: Whether the lower end of the metric is better.
    """

    metric: str
    stem: str
    system: str
    tracks: int
    average: str
    value: float
    is_best: bool
    improvement: float
    is_exact: bool
    lower_is_better: bool

    def text(self, *, with_improvement: bool = True) -> str:
        """Returns the score as tables show it, with the improvement over the mixture in brackets.

        Beside a score that is not shown as a number there is none: it would be the rounding's.
        """
        in_decibels = scale_of(self.metric).in_decibels
        shown = in_words(self.value, in_decibels=in_decibels, is_exact=self.is_exact)
        is_number = not (in_decibels and (self.is_exact or abs(self.value) >= LARGEST_DB))
        has_more = with_improvement and is_number and math.isfinite(self.improvement) and self.system != MIXTURE
        return f"{shown} ({self.improvement:+.2f})" if has_more else shown


@dataclass(frozen=True)
class Difference:
    """The paired difference of two systems, the second minus the first, over their common tracks.

    Attributes:
        metric: Name of the metric in tables.
        stem: Name of a stem of the source set, or `ALL_STEMS`.
        first: A system.
        second: Another one.
        paired: What the differences say.
        wilcoxon_holm: The p of the Wilcoxon test, corrected by Holm for all comparisons of this metric.
        sign_flip_holm: The p of the sign-flip test, likewise.
    """

    metric: str
    stem: str
    first: str
    second: str
    paired: PairedDifference
    wilcoxon_holm: float
    sign_flip_holm: float


@dataclass(frozen=True)
class GroupScore:
    """A system's score for one stem over the tracks of a group.

    Attributes:
        grouped_by: The column of the metadata.
        group: The value in it that the tracks share.
        score: The score.
    """

    grouped_by: str
    group: str
    score: SystemScore


def system_scores(
    scores: Sequence[TrackScore],
    rows: Sequence[Aggregate],
    *,
    baselines: Iterable[str] = (),
    lower_is_better: frozenset[str] = frozenset(),
) -> list[SystemScore]:
    """Returns the scores of all systems, metric by metric and stem by stem.

    Args:
        scores: By track.
        rows: Their aggregates.
        baselines: Systems that are told the answer, or are none; none of them is the best.
        lower_is_better: Metrics of other tools whose lower end is better.
    """
    found = []
    for metric, stem in dict.fromkeys((row.metric, row.stem) for row in rows):
        scale = scale_of(metric, lower_is_better)
        own = [row for row in rows if (row.metric, row.stem) == (metric, stem)]
        best = _best([getattr(row, scale.average) for row in own if row.system not in set(baselines)], scale)
        by_track = _by_track(scores, metric, stem)
        for row in own:
            value = getattr(row, scale.average)
            found.append(
                SystemScore(
                    metric,
                    stem,
                    row.system,
                    row.tracks,
                    scale.average.replace("_", " "),
                    value,
                    row.system not in set(baselines) and round(value, 2) == best,
                    _improvement(by_track, row.system) if scale.improves else math.nan,
                    row.is_exact,
                    not scale.higher_is_better,
                )
            )
    return found


def differences(scores: Sequence[TrackScore]) -> list[Difference]:
    """Returns the paired differences of all pairs of systems, in the order of the systems.

    Holm's correction is over all pairs and stems of a metric.
    """
    systems = list(dict.fromkeys(score.system for score in scores))
    found: list[Difference] = []
    for metric in dict.fromkeys(score.metric for score in scores):
        rows = []
        for stem in dict.fromkeys(score.stem for score in scores if score.metric == metric):
            by_track = _by_track(scores, metric, stem)
            for first, second in itertools.combinations(systems, 2):
                if pairs := _pairs(by_track, first, second):
                    rows.append((stem, first, second, paired_difference([b - a for a, b in pairs])))
        wilcoxon = holm([paired.wilcoxon_p for *_, paired in rows])
        flips = holm([paired.sign_flip_p for *_, paired in rows])
        found += [Difference(metric, *row, *both) for row, *both in zip(rows, wilcoxon, flips, strict=True)]
    return found


def group_scores(
    scores: Sequence[TrackScore],
    groups: Mapping[str, Mapping[str, str]],
    *,
    baselines: Iterable[str] = (),
    lower_is_better: frozenset[str] = frozenset(),
) -> list[GroupScore]:
    """Returns the scores of all systems over the tracks of each group.

    Args:
        scores: By track.
        groups: By column of the metadata, the group of each track; tracks without one are in none.
        baselines: As for `system_scores`.
        lower_is_better: As for `system_scores`.
    """
    found = []
    for column, by_track in groups.items():
        for group in sorted({group for group in by_track.values() if group}):
            own = [score for score in scores if by_track.get(score.track) == group]
            rows = system_scores(own, aggregate(own), baselines=baselines, lower_is_better=lower_is_better)
            found += [GroupScore(column, group, score) for score in rows]
    return found


def _by_track(scores: Sequence[TrackScore], metric: str, stem: str) -> dict[str, dict[str, float]]:
    """Scores by system and track, of the tracks that all systems have."""
    own = [score for score in scores if (score.metric, score.stem) == (metric, stem)]
    common = common_tracks(own).get((metric, stem), frozenset())
    found: dict[str, dict[str, float]] = {}
    for score in own:
        if score.track in common and math.isfinite(score.frames_median):
            found.setdefault(score.system, {})[score.track] = score.frames_median
    return found


def _pairs(by_track: Mapping[str, Mapping[str, float]], first: str, second: str) -> list[tuple[float, float]]:
    one, other = by_track.get(first, {}), by_track.get(second, {})
    return [(one[track], other[track]) for track in one if track in other]


def _improvement(by_track: Mapping[str, Mapping[str, float]], system: str) -> float:
    pairs = _pairs(by_track, MIXTURE, system)
    return sum(b - a for a, b in pairs) / len(pairs) if pairs else math.nan


def _best(values: Sequence[float], scale: Scale) -> float:
    finite = [round(value, 2) for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return math.nan
    return max(finite) if scale.higher_is_better else min(finite)
