"""What records say together: scores by track, their aggregates, and tables of them as JSON, CSV, Markdown and rich.

The page of HTML is in page.py. Nothing is scored here.
"""

import csv
import datetime
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsep import unfinished
from jaxsep.environment import processor, versions
from jaxsep.errors import ConfigError, JaxsepError

if TYPE_CHECKING:
    from rich.table import Table

# The row that is the mean over the stems of a track, as the MDX challenges rank.
ALL_STEMS = "(mean of stems)"
AGGREGATES = ("median_of_medians", "mean_of_medians", "median_of_means", "mean_of_means")
EXPLANATION = (
    "Frames are aggregated first, then tracks: 'median of medians' is that of SiSEC18, the others may be decibels off. "
    "Frames that are NaN or infinite and tracks without a score do not count. Metrics of whole tracks have one frame."
)
REPORTS = ("scores.json", "summary.csv", "tracks.csv", "summary.md", "report.html")
_BSS_NAMES = ("SDR", "ISR", "SIR", "SAR")
_WHOLE_NAMES = {"sdr": "global SDR", "si-sdr": "SI-SDR"}


@dataclass(frozen=True)
class TrackScore:
    """One metric of one stem of one track.

    Attributes:
        system: What was evaluated.
        track: The song.
        stem: Of the source set, or `ALL_STEMS`.
        metric: In words.
        frames_median: In dB, NaN where there is no score.
        frames_mean: As well.
    """

    system: str
    track: str
    stem: str
    metric: str
    frames_median: float
    frames_mean: float


@dataclass(frozen=True)
class Aggregate:
    """One metric of one stem over all tracks, in dB.

    Attributes:
        system: What was evaluated.
        stem: Of the source set, or `ALL_STEMS`.
        metric: In words.
        tracks: How many have a score.
        median_of_medians: Median over tracks of the median over frames.
        mean_of_medians: Mean over tracks of the median over frames.
        median_of_means: Median over tracks of the mean over frames.
        mean_of_means: Mean over tracks of the mean over frames.
    """

    system: str
    stem: str
    metric: str
    tracks: int
    median_of_medians: float
    mean_of_medians: float
    median_of_means: float
    mean_of_means: float


def track_scores(records: Sequence[dict[str, Any]]) -> list[TrackScore]:
    """Returns every score of every record, the mean over stems after those of the stems.

    A track that lacks the score of a stem has no mean over stems.
    """
    found = []
    for record in records:
        own = record["jaxsep"]
        system, track, stems = own["system"], own["track"], own["settings"]["stems"]
        frames = {
            f"{prefix}{metric}": {target["name"]: _values(target, metric) for target in targets}
            for prefix, targets in (("", record["targets"]), ("museval ", own["museval_targets"]))
            if targets
            for metric in _BSS_NAMES
        }
        whole = {
            _WHOLE_NAMES[key]: {stem: [value] for stem, value in values.items() if value is not None}
            for key, values in own["whole_track"].items()
        }
        for metric, by_stem in (frames | whole).items():
            rows = [(_over(np.median, by_stem.get(stem, [])), _over(np.mean, by_stem.get(stem, []))) for stem in stems]
            if len(stems) > 1:
                medians, means = zip(*rows, strict=True)
                rows.append((sum(medians) / len(stems), sum(means) / len(stems)))
            for stem, row in zip([*stems, ALL_STEMS], rows, strict=False):
                found.append(TrackScore(system, track, stem, metric, *row))
    return found


def aggregate(scores: Sequence[TrackScore]) -> list[Aggregate]:
    """Returns the aggregates over tracks, in the order in which systems, metrics and stems first occur."""
    groups: dict[tuple[str, str, str], list[TrackScore]] = {}
    for score in scores:
        groups.setdefault((score.system, score.metric, score.stem), []).append(score)
    rows = []
    for (system, metric, stem), group in groups.items():
        medians = [score.frames_median for score in group]
        means = [score.frames_mean for score in group]
        rows.append(
            Aggregate(
                system,
                stem,
                metric,
                sum(map(math.isfinite, medians)),
                _over(np.median, medians),
                _over(np.mean, medians),
                _over(np.median, means),
                _over(np.mean, means),
            )
        )
    return rows


def remarks(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what the records note: silent stems, lengths that differed, ill-conditioned equations."""
    found = []
    for record in records:
        own = record["jaxsep"]
        where = f"{own['system']}, {own['track']}"
        found += [
            f"{where}: '{stem}' is left out of BSS Eval: {why}." for stem, why in own["left_out_of_bss_eval"].items()
        ]
        found += [f"{where}: {note}" for note in own["notes"]]
    return found


def check_replaceable(directory: Path) -> None:
    """Refuses a directory in which reports would replace what is none of ours.

    Raises:
        ConfigError: There is a file of a report's name, and no scores.json that was written with it.
    """
    taken = [directory / name for name in REPORTS if os.path.lexists(directory / name)]
    if not taken:
        return
    try:
        if json.loads((directory / REPORTS[0]).read_text(encoding="utf-8"))["aggregation"] == EXPLANATION:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"'{taken[0]}' exists and is no report of jaxsep's; give another --output, or --overwrite.")


def write_reports(records: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Writes scores.json, summary.csv, tracks.csv, summary.md and report.html; each has its name when it is complete.

    Args:
        records: Of all tracks and systems.
        directory: Where they go.

    Returns:
        The files.

    Raises:
        JaxsepError: The disk does not take them.
    """
    from jaxsep.evaluation.page import make_page

    scores = track_scores(records)
    rows = aggregate(scores)
    settings = [record["jaxsep"]["settings"] for record in records[:1]]
    provenance = {record["jaxsep"]["system"]: record["jaxsep"]["provenance"] for record in records}
    data = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "processor": processor(),
        "settings": settings[0] if settings else {},
        "systems": provenance,
        "aggregation": EXPLANATION,
        "summary": [_json_row(row) for row in rows],
        "tracks": [_json_row(score) for score in scores],
        "remarks": remarks(records),
    }
    texts = (
        json.dumps(data, indent=1, allow_nan=False) + "\n",
        to_csv([asdict(row) for row in rows]),
        to_csv([asdict(score) for score in scores]),
        markdown(rows, remarks(records)),
        make_page(data, scores, rows),
    )
    for name, text in zip(REPORTS, texts, strict=True):
        _write(directory / name, text)
    return [directory / name for name in REPORTS]


def markdown(rows: Sequence[Aggregate], notes: Sequence[str] = ()) -> str:
    """Returns a table of the aggregates, in dB, and what is to be known about them."""
    headings = ("system", "metric", "stem", "tracks", *(name.replace("_", " ") for name in AGGREGATES))
    lines = ["| " + " | ".join(headings) + " |", "|---|---|---|" + "---:|" * 5]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", f"All in dB. {EXPLANATION}", *(f"\n- {note}" for note in notes)]) + "\n"


def as_table(rows: Sequence[Aggregate]) -> "Table":
    """Returns a table for the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("system", "metric", "stem"):
        table.add_column(heading, overflow="fold")
    for heading in ("tracks", *(name.replace("_", " ") for name in AGGREGATES)):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*cells(row))
    return table


def cells(row: Aggregate) -> list[str]:
    """Returns the cells of a row of a table."""
    numbers = [decibels(getattr(row, name)) for name in AGGREGATES]
    return [row.system, row.metric, row.stem, str(row.tracks), *numbers]


def decibels(value: float) -> str:
    """Returns a score with two decimals, a dash where there is none."""
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _values(target: dict[str, Any], metric: str) -> list[float]:
    return [frame["metrics"][metric] for frame in target["frames"]]


def _over(function: Callable[[np.ndarray], Any], values: Sequence[float]) -> float:
    """Over what is finite, as pandas does in museval; NaN where nothing is."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    return float(function(finite)) if finite.size else math.nan


def _json_row(row: TrackScore | Aggregate) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows of the same keys as a table of comma-separated values, the keys above; nothing for no rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.watched(temporary):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise JaxsepError(f"'{path}' cannot be written: {error.strerror}.") from None
