"""The report as one page of HTML: tables, box plots as inline SVG, and lists by track. It needs nothing beside itself.

The numbers are those of report.py, the boxes those of box_plot.py.
"""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxsep.evaluation.aggregates import Aggregate, TrackScore
from jaxsep.evaluation.box_plot import box_plot, legend
from jaxsep.evaluation.scales import LARGEST_DB, in_words, scale_of
from jaxsep.evaluation.tables import (
    Table,
    aggregate_table,
    as_html,
    comparison_tables,
    difference_tables,
    group_tables,
)

if TYPE_CHECKING:
    from jaxsep.evaluation.report import Report

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; margin: 2em auto; max-width: 72em; padding: 0 1.2em;
       overflow-wrap: anywhere; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin: 2em 0 .4em; } h3 { font-size: 1em; margin: 1.2em 0 .2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .22em .9em .22em 0; text-align: left; border-bottom: 1px solid #dfe4ea; }
th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; }
.first td { border-top: 2px solid #aab4c0; }
dt { font-weight: 600; } dd { margin: 0 0 .3em 1.2em; } summary { cursor: pointer; padding: .3em 0; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; max-width: 100%; }
.scroll { overflow-x: auto; max-width: 100%; background: linear-gradient(to right, #fff 40%, #fff0) local,
          linear-gradient(to left, #fff 40%, #fff0) right local, linear-gradient(to right, #1c243033, #1c243000),
          linear-gradient(to left, #1c243033, #1c243000) right; background-repeat: no-repeat;
          background-size: 3em 100%, 3em 100%, .8em 100%, .8em 100%; }
.warning { border-left: 4px solid #d55e00; padding-left: .8em; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2em 1.2em; }
.legend span { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
figcaption { font-weight: 600; } svg text { font: 12px system-ui, sans-serif; fill: #1c2430; }
svg text.small { font-size: 10px; }
@media (max-width: 640px) {
  th, td { padding-right: .6em; } td.n, th.n { white-space: normal; }
  .scroll tr > :first-child { position: sticky; left: 0; background: #fff; }
}
"""
# Edges of a box that scrolls are shaded where there is more; on narrow windows, scores break before their brackets and
# the first column stays in sight.


def make_page(report: "Report") -> str:
    """Returns the page."""
    from jaxsep.evaluation.report import COMPARISON, DIFFERENCES

    data = report.data
    systems = list(data["systems"])
    settings = data["settings"]
    facts = {
        "Systems": "; ".join(f"{name} ({_flat(provenance)})" for name, provenance in data["systems"].items()),
        "Source set": ", ".join(settings.get("stems", ())),
        "Frames of BSS Eval": f"{settings.get('window_seconds')} s every {settings.get('hop_seconds')} s",
        "Date": data["date"],
        "Processor": data["processor"],
        "Versions": _flat(data["versions"]),
    }
    parts = [
        "<h1>Evaluation</h1>",
        *(f'<p class="warning">{_text(warning)}</p>' for warning in data["warnings"]),
        "<dl>",
        *(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()),
        f"</dl><h2>Systems</h2><p>{_text(COMPARISON)}</p>",
        *_titled(comparison_tables(report.comparison)),
        "<h2>Over tracks</h2><p>Boxes are quartiles with the median, whiskers the last track within 1.5 times their "
        "distance, points the tracks beyond, triangles at an end of the axis those far beyond. Of metrics by frame, "
        "each track counts with its median over frames.</p>",
        legend(systems),
        '<div class="plots">',
        *_plots(report.scores, systems),
        "</div>",
    ]
    if report.differences:
        tables = difference_tables(report.differences)
        parts += [f"<h2>Paired differences</h2><p>{_text(DIFFERENCES)}</p>", *_folded(tables)]
    if report.groups:
        parts += ["<h2>Groups of tracks</h2>", *_folded(group_tables(report.groups))]
    parts += [
        f"<h2>All averages</h2><p>{_text(data['aggregation'])}</p>{_all_averages(report.rows)}",
        "<h2>By track</h2><p>Medians over frames; ratios are in dB.</p>",
        *_tracks(report.scores),
    ]
    if data["remarks"]:
        parts += ["<h2>Remarks</h2><ul>", *(f"<li>{_text(each)}</li>" for each in data["remarks"]), "</ul>"]
    return html_page(f"Evaluation: {', '.join(systems)}", parts)


def html_page(title: str, parts: Sequence[str]) -> str:
    """Returns a page that needs nothing beside itself.

    Args:
        title: As text.
        parts: Of its body, as HTML.
    """
    head = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def _plots(scores: Sequence[TrackScore], systems: Sequence[str]) -> list[str]:
    values: dict[str, dict[tuple[str, str], list[float]]] = {}
    for score in scores:
        # Of an exact estimate, what is not infinite is rounding too.
        is_beyond = score.is_exact and scale_of(score.metric).in_decibels
        value = LARGEST_DB if is_beyond else score.frames_median
        if math.isfinite(value):
            values.setdefault(score.metric, {}).setdefault((score.stem, score.system), []).append(value)
    figures = []
    for metric, by_box in values.items():
        stems = dict.fromkeys(score.stem for score in scores if score.metric == metric)
        # Systems without values keep their place, and their colour.
        groups = [(stem, [(system, by_box.get((stem, system), [])) for system in systems]) for stem in stems]
        plot = box_plot(groups, "dB" if scale_of(metric).in_decibels else "")
        figures.append(f'<figure><figcaption>{_text(metric)}</figcaption><div class="scroll">{plot}</div></figure>')
    return figures


def _all_averages(rows: Sequence[Aggregate]) -> str:
    of = [(row.system, row.metric) for row in rows]
    starts = [number for number, each in enumerate(of) if number == 0 or each != of[number - 1]]
    notes = [f"{row.system}, {row.metric}, {row.stem}: {row.note}." for row in rows if row.note]
    listed = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return as_html(aggregate_table(rows), new_groups=starts) + (f"<ul>{listed}</ul>" if notes else "")


def _tracks(scores: Sequence[TrackScore]) -> list[str]:
    metrics = list(dict.fromkeys(score.metric for score in scores))
    by_track: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    for score in scores:
        in_decibels = scale_of(score.metric).in_decibels
        shown = in_words(score.frames_median, in_decibels=in_decibels, is_exact=score.is_exact)
        by_track.setdefault(score.track, {}).setdefault((score.system, score.stem), {})[score.metric] = shown
    tables = [
        Table(
            track,
            ["system", "stem", *metrics],
            [[*of, *(cells.get(metric, "-") for metric in metrics)] for of, cells in lines.items()],
            2,
        )
        for track, lines in by_track.items()
    ]
    return _folded(tables)


def _titled(tables: Sequence[Table]) -> list[str]:
    return [f"<h3>{_text(table.caption)}</h3>{as_html(table)}" for table in tables]


def _folded(tables: Sequence[Table]) -> list[str]:
    opened = " open" if len(tables) == 1 else ""
    return [f"<details{opened}><summary>{_text(table.caption)}</summary>{as_html(table)}</details>" for table in tables]


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _text(value: object) -> str:
    return html.escape(str(value))
