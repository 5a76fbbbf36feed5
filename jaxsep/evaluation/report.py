"""What records say together, as JSON, CSV, Markdown and LaTeX. The page of HTML is in page.py."""

import csv
import datetime
import io
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxsep.environment import processor, versions
from jaxsep.errors import ConfigError
from jaxsep.evaluation.aggregates import ALL_STEMS, Aggregate, TrackScore, aggregate, remarks, track_scores, warnings
from jaxsep.evaluation.systems import (
    Difference,
    GroupScore,
    SystemScore,
    differences,
    group_scores,
    system_scores,
)
from jaxsep.evaluation.tables import (
    Table,
    aggregate_table,
    as_latex,
    as_markdown,
    comparison_tables,
    difference_tables,
    group_tables,
)
from jaxsep.naming import new_files

EXPLANATION = (
    "Frames are aggregated first, then tracks: 'median of medians' is that of SiSEC18, the others may be decibels off. "
    "Frames that are NaN or infinite do not count. Of each metric and stem, the tracks count for which all systems "
    "have a score. Ratios are in dB; beyond 150 dB, where they are rounding, they count as 150. Log-WMSE, spectral "
    "distance (0 is best), bleedless and fullness have no unit. Metrics of whole tracks have one frame."
)
COMPARISON = (
    "Metrics by frame are compared by SiSEC's median over tracks of the median over frames, those of whole tracks by "
    "the mean over tracks, as in the Music Demixing Challenges. The best system is bold, baselines aside. In brackets "
    "is the mean improvement over the mixture, where the mixture was scored (--baselines mixture); of artifacts, of "
    "which it has none, there is no such thing."
)
DIFFERENCES = (
    "The second system minus the first, track by track (medians over frames), over their common tracks: mean, its 95 % "
    "interval (percentile bootstrap over tracks, 9,999 resamples), p of the Wilcoxon signed-rank test and of the "
    "sign-flip test, and both corrected by Holm's method over all pairs and stems of a metric."
)
REPORTS = (
    "scores.json",
    "summary.csv",
    "tracks.csv",
    "systems.csv",
    "differences.csv",
    "groups.csv",
    "summary.md",
    "systems.tex",
    "report.html",
)


@dataclass(frozen=True)
class Report:
    """All that reports show.

    Attributes:
        data: What scores.json holds.
        scores: By track.
        rows: Their aggregates.
        comparison: Systems beside each other.
        differences: Paired differences of systems; none of one system.
        groups: Systems beside each other over groups of tracks; none without groups.
    """

    data: dict[str, Any]
    scores: list[TrackScore]
    rows: list[Aggregate]
    comparison: list[SystemScore]
    differences: list[Difference]
    groups: list[GroupScore]


def make_report(
    records: Sequence[dict[str, Any]],
    *,
    joined: Sequence[TrackScore] = (),
    groups: Mapping[str, Mapping[str, str]] | None = None,
    lower_is_better: frozenset[str] = frozenset(),
) -> Report:
    """Returns what records say together.

    Args:
        records: Records of all tracks and systems, in the order in which systems are shown.
        joined: Scores that another tool made.
        groups: By column of the metadata, the group of each track.
        lower_is_better: Metrics of other tools whose lower end is better.
    """
    scores = [*track_scores(records), *joined]
    rows = aggregate(scores)
    provenance = {record["jaxsep"]["system"]: record["jaxsep"]["provenance"] for record in records}
    baselines = [name for name, made in provenance.items() if "baseline" in made]
    comparison = system_scores(scores, rows, baselines=baselines, lower_is_better=lower_is_better)
    paired = differences(scores)
    by_group = group_scores(scores, groups or {}, baselines=baselines, lower_is_better=lower_is_better)
    settings = [record["jaxsep"]["settings"] for record in records[:1]]
    data = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "processor": processor(),
        "settings": settings[0] if settings else {},
        "systems": provenance,
        "aggregation": EXPLANATION,
        "warnings": warnings(records),
        "summary": [_for_json(asdict(row)) for row in rows],
        "comparison": [_for_json(asdict(row)) for row in comparison],
        "differences": [_for_json(_flat(row)) for row in paired],
        "groups": [_for_json(_flat_group(row)) for row in by_group],
        "tracks": [_for_json(asdict(score)) for score in scores],
        "remarks": remarks(records),
    }
    return Report(data, scores, rows, comparison, paired, by_group)


def report_paths(directory: Path) -> list[Path]:
    """Returns the files of reports in a directory.

    Args:
        directory: Which.
    """
    return [directory / name for name in REPORTS]


def check_replaceable(directory: Path) -> None:
    """Refuses a directory in which reports would replace what is none of ours.

    Raises:
        ConfigError: There is a file of a report's name, and no scores.json that was written with it.
    """
    taken = [path for path in report_paths(directory) if os.path.lexists(path)]
    if not taken:
        return
    try:
        if {"aggregation", "summary", "tracks"} <= json.loads((directory / REPORTS[0]).read_text("utf-8")).keys():
            return
    except (OSError, ValueError, AttributeError):
        pass
    raise ConfigError(f"'{taken[0]}' exists and is no report of jaxsep's; give another --output, or --overwrite.")


def write_reports(report: Report, directory: Path, *, replaced: Collection[Path] = ()) -> list[Path]:
    """Writes the report in all its forms; all files get their names when they are complete.

    Args:
        report: What `make_report` gave.
        directory: Where they go.
        replaced: Files that are replaced if they are there by then.

    Returns:
        The files, those of `REPORTS`; what there is nothing of is an empty file.

    Raises:
        JaxsepError: The disk does not take them, or they have other names, since one that is not to be replaced came to
            exist.
    """
    from jaxsep.evaluation.page import make_page

    texts = (
        json.dumps(report.data, indent=1, allow_nan=False) + "\n",
        to_csv([asdict(row) for row in report.rows]),
        to_csv([asdict(score) for score in report.scores]),
        to_csv([asdict(row) for row in report.comparison]),
        to_csv([_flat(row) for row in report.differences]),
        to_csv([_flat_group(row) for row in report.groups]),
        markdown(report),
        "\n".join(as_latex(table) for table in comparison_tables(report.comparison)),
        make_page(report),
    )
    paths = report_paths(directory)
    with new_files(paths, replaced=replaced) as temporary:
        for path, text in zip(temporary, texts, strict=True):
            path.write_text(text, encoding="utf-8")
    return paths


def markdown(report: Report) -> str:
    """Returns the report in Markdown: what has to be known first, systems beside each other, all averages."""
    parts = [f"**{warning}**" for warning in report.data["warnings"]]
    parts += ["## Systems", COMPARISON, *_titled(comparison_tables(report.comparison))]
    if report.differences:
        # Of five systems and four stems there are ninety for each metric.
        whole = [each for each in report.differences if each.stem == ALL_STEMS] or report.differences
        parts += ["## Paired differences", f"{DIFFERENCES} Those of each stem are in differences.csv."]
        parts += _titled(difference_tables(whole))
    if report.groups:
        parts += ["## Groups of tracks", *_titled(group_tables(report.groups))]
    parts += ["## All averages", EXPLANATION, as_markdown(aggregate_table(report.rows))]
    parts += ["\n".join(f"- {note}" for note in report.data["remarks"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows of the same keys as a table of comma-separated values, the keys above; nothing for no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _titled(tables: Sequence[Table]) -> list[str]:
    return [text for table in tables for text in (f"### {table.caption}", as_markdown(table))]


def _flat(difference: Difference) -> dict[str, Any]:
    values = asdict(difference)
    paired = values.pop("paired")
    tail = {name: values.pop(name) for name in ("wilcoxon_holm", "sign_flip_holm")}
    return values | paired | tail


def _flat_group(group: GroupScore) -> dict[str, Any]:
    return {"grouped_by": group.grouped_by, "group": group.group, **asdict(group.score)}


def _for_json(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
