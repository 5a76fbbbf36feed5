"""What comes from CSV files beside the audio: scores that another tool made, and groups that tracks belong to."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxsep.errors import ConfigError, nearest
from jaxsep.evaluation.aggregates import TrackScore, with_mean_of_stems
from jaxsep.evaluation.scales import SCALES
from jaxsep.evaluation.tracks import same_text

_SYSTEM, _TRACK, _STEM = "system", "track", "stem"
# MUSDB18's own list of tracks says 'Track Name'.
_TRACK_HEADINGS = (_TRACK, "track name")


def read_scores(path: Path, systems: Sequence[str], tracks: Sequence[str], stems: Sequence[str]) -> list[TrackScore]:
    """Returns the scores of a CSV file with columns 'system', 'track', 'stem', and one for each metric.

    Where there is one system, its column may be missing. Empty cells have no score. Where all stems of a track have
    scores, their mean is added.

    Args:
        path: The file.
        systems: Names of the systems that are evaluated.
        tracks: Names of the tracks that are evaluated.
        stems: The source set.

    Raises:
        ConfigError: The file cannot be read, names what is not evaluated, says something twice or holds no number.
    """
    headings, lines = _read(path)
    for needed in (_TRACK, _STEM, *([_SYSTEM] if len(systems) > 1 else [])):
        if needed not in headings:
            raise ConfigError(f"'{path}' has no column '{needed}', only {', '.join(headings)}.")
    metrics = [heading for heading in headings if heading not in (_SYSTEM, _TRACK, _STEM)]
    if not metrics:
        raise ConfigError(f"'{path}' has no column with scores; add one, named after the metric.")
    if taken := [metric for metric in metrics if metric in SCALES]:
        raise ConfigError(f"'{path}' has a column '{taken[0]}', which is a metric of jaxsep's own; rename it.")
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for number, cells in lines:
        where = f"line {number} of '{path}'"
        key = (
            _known(cells.get(_SYSTEM, systems[0]), systems, _SYSTEM, where),
            _known(cells[_TRACK], tracks, _TRACK, where),
            _known(cells[_STEM], stems, _STEM, where),
        )
        if key in found:
            raise ConfigError(f"{where} has scores of {key[0]}, '{key[1]}', '{key[2]}' again; take one line away.")
        found[key] = {metric: _number(cells[metric], metric, where) for metric in metrics}
    scores = []
    for metric in metrics:
        for system in systems:
            for track in tracks:
                values = [found.get((system, track, stem), {}).get(metric, math.nan) for stem in stems]
                rows = [
                    TrackScore(system, track, stem, metric, value, value)
                    for stem, value in zip(stems, values, strict=True)
                ]
                scores += with_mean_of_stems(rows) if not all(map(math.isnan, values)) else []
    return scores


def read_groups(path: Path, tracks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the group of each track by column of a CSV file with a column 'track' (or MUSDB18's 'Track Name').

    Tracks that are not evaluated are passed over: one list serves all subsets.

    Args:
        path: The file.
        tracks: Names of the tracks that are evaluated.

    Raises:
        ConfigError: The file cannot be read, lacks a track that is evaluated, or has a track twice.
    """
    headings, lines = _read(path)
    named = [heading for heading in headings if heading.lower() in _TRACK_HEADINGS]
    if not named or len(headings) < 2:
        raise ConfigError(f"'{path}' is to have a column 'track' and others to group by; it has {', '.join(headings)}.")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in lines:
        track = next((each for each in tracks if same_text(each, cells[named[0]])), None)
        if track in rows:
            raise ConfigError(f"Line {number} of '{path}' has the track '{track}' again; take one line away.")
        if track is not None:
            rows[track] = cells
    if missing := [track for track in tracks if track not in rows]:
        known = [cells[named[0]] for _, cells in lines]
        raise ConfigError(f"'{path}' lacks the track '{missing[0]}', which is evaluated.{nearest(missing[0], known)}")
    return {
        heading: {track: rows[track][heading] for track in tracks} for heading in headings if heading not in named[:1]
    }


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Returns the headings, and each line with its number; spaces around cells do not count."""
    try:
        # Excel's CSV begins with a mark of its encoding.
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(text.splitlines(), strict=True))
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"'{path}' is no CSV file in UTF-8: {error}.") from None
    headings = [cell.strip() for cell in rows[0]] if rows else []
    if not headings or not all(headings) or len(set(headings)) != len(headings):
        raise ConfigError(f"'{path}' is to begin with a line of headings, each once; it begins with {headings}.")
    lines = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(headings) and row:
            raise ConfigError(f"Line {number} of '{path}' has {len(row)} cells, not {len(headings)} as its headings.")
        if row:
            lines.append((number, dict(zip(headings, (cell.strip() for cell in row), strict=True))))
    return headings, lines


def _known(name: str, names: Iterable[str], what: str, where: str) -> str:
    for each in names:
        if same_text(each, name):
            return each
    raise ConfigError(f"{where} has the {what} '{name}', which is not evaluated.{nearest(name, names)}")


def _number(cell: str, metric: str, where: str) -> float:
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise ConfigError(f"{where} has '{cell}' for '{metric}'; give a finite number, or nothing where there is none.")
    return value
