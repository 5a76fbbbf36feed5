"""The report as one page of HTML: tables, box plots as inline SVG, and lists by track. It needs nothing beside itself.

The numbers are those of report.py.
"""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxsep.evaluation.report import Aggregate, TrackScore

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2430; margin: 2em auto; max-width: 72em; padding: 0 1.2em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin: 2em 0 .4em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .22em .9em .22em 0; text-align: left; border-bottom: 1px solid #dfe4ea; }
th { font-weight: 600; } td.n, th.n { text-align: right; } .first td { border-top: 2px solid #aab4c0; }
dt { font-weight: 600; } dd { margin: 0 0 .3em 1.2em; } summary { cursor: pointer; padding: .3em 0; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; } .scroll { overflow-x: auto; }
figcaption { font-weight: 600; } svg text { font: 12px system-ui, sans-serif; fill: #1c2430; }
"""
# Colour-blind safe (Okabe and Ito), one for each system.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a8a8a")
_LEFT, _TOP, _HEIGHT, _BOTTOM, _WIDTH_OF_A_BOX = 48, 10, 220, 74, 26


def make_page(data: dict[str, Any], scores: Sequence["TrackScore"], rows: Sequence["Aggregate"]) -> str:
    """Returns the page.

    Args:
        data: What scores.json holds.
        scores: By track.
        rows: Their aggregates.
    """
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
        "<h1>Evaluation</h1><dl>",
        *(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()),
        f"</dl><h2>Summary, in dB</h2><p>{_text(data['aggregation'])}</p>",
        _summary(rows),
        "<h2>Over tracks</h2><p>Boxes are quartiles with the median, whiskers the last track within 1.5 times their "
        "distance, points the tracks beyond. Of metrics by frame, each track counts with its median over frames.</p>",
        '<div class="plots">',
        *_plots(scores, systems),
        "</div><h2>By track, in dB</h2><p>Medians over frames.</p>",
        *_tracks(scores),
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


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    """Returns a table, wide ones in a box of their own.

    Args:
        headings: Of the columns, as text.
        rows: Cells, as text.
        texts: How many columns are words; the others are numbers.
    """
    lines = [_row(headings, "th", texts=texts), *(_row(row, "td", texts=texts) for row in rows)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def box_plot(groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[float]]]]], unit: str = "dB") -> str:
    """Returns a box plot as SVG, by Tukey's rules.

    Args:
        groups: Label of each group, and in it the boxes, each with the name of its series and its values.
        unit: Of the axis.
    """
    names = list(dict.fromkeys(name for _, boxes in groups for name, _ in boxes))
    values = [value for _, boxes in groups for _, box in boxes for value in box]
    low, high, step = _axis(min(values, default=0.0), max(values, default=1.0))

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (high - value) / (high - low)

    x = _LEFT + 10.0
    drawn: list[str] = []
    for label, boxes in groups:
        start = x
        for name, box in boxes:
            if len(box):
                drawn += _box(x + _WIDTH_OF_A_BOX / 2, box, _COLOURS[names.index(name) % len(_COLOURS)], y)
            x += _WIDTH_OF_A_BOX
        middle = (start + x) / 2
        x = max(x, start + 7.0 * len(label)) + 18
        drawn.append(
            f'<text x="{max(middle, start + 3.5 * len(label)):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">'
            f"{_text(label)}</text>"
        )
    width = max(x, _LEFT + 10 + sum(22 + 7 * len(name) for name in names))
    lines = []
    for index in range(round((high - low) / step) + 1):
        tick = low + index * step
        colour = "#7b8794" if abs(tick) < step / 2 else "#e3e7ec"
        lines.append(
            f'<line x1="{_LEFT}" x2="{width:.0f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            f'stroke="{colour}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    legend, at = [], float(_LEFT)
    for index, name in enumerate(names):
        row = _TOP + _HEIGHT + 44
        legend.append(
            f'<rect x="{at:.0f}" y="{row - 10}" width="12" height="12" fill="{_COLOURS[index % len(_COLOURS)]}"/>'
            f'<text x="{at + 17:.0f}" y="{row}">{_text(name)}</text>'
        )
        at += 30 + 7 * len(name)
    width = max(width, at)
    height = _TOP + _HEIGHT + _BOTTOM
    return (
        f'<svg role="img" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">'
        f'<text x="12" y="{_TOP + _HEIGHT / 2}" transform="rotate(-90 12 {_TOP + _HEIGHT / 2})" '
        f'text-anchor="middle">{_text(unit)}</text>' + "".join([*lines, *drawn, *legend]) + "</svg>"
    )


def five_numbers(values: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Returns lower whisker, quartile, median, quartile and upper whisker, by Tukey's rules."""
    low, median, high = (float(each) for each in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    return min([*inside, low]), low, median, high, max([*inside, high])


def _box(x: float, values: Sequence[float], colour: str, y: Any) -> list[str]:
    bottom, low, median, high, top = five_numbers(values)
    half = _WIDTH_OF_A_BOX * 0.36
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(bottom):.1f}" y2="{y(top):.1f}" stroke="{colour}"/>',
        f'<rect x="{x - half:.1f}" y="{y(high):.1f}" width="{2 * half:.1f}" height="{max(y(low) - y(high), 0.5):.1f}" '
        f'fill="{colour}" fill-opacity="0.3" stroke="{colour}"/>',
        f'<line x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y(median):.1f}" y2="{y(median):.1f}" stroke="{colour}" '
        'stroke-width="2.5"/>',
        *(
            f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>'
            for value in values
            if not bottom <= value <= top
        ),
    ]


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Returns ends and step of an axis with some six round numbers on it."""
    span = max(high - low, 1e-3)
    power = 10.0 ** math.floor(math.log10(span / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= span)
    return math.floor(low / step - 0.01) * step, math.ceil(high / step + 0.01) * step, step


def _plots(scores: Sequence["TrackScore"], systems: Sequence[str]) -> list[str]:
    metrics = list(dict.fromkeys(score.metric for score in scores))
    stems = list(dict.fromkeys(score.stem for score in scores))
    figures = []
    for metric in metrics:
        groups = [
            (
                stem,
                [
                    (
                        system,
                        [
                            score.frames_median
                            for score in scores
                            if (score.system, score.metric, score.stem) == (system, metric, stem)
                            and math.isfinite(score.frames_median)
                        ],
                    )
                    for system in systems
                ],
            )
            for stem in stems
        ]
        if any(values for _, boxes in groups for _, values in boxes):
            figures.append(f"<figure><figcaption>{_text(metric)}</figcaption>{box_plot(groups)}</figure>")
    return figures


def _summary(rows: Sequence["Aggregate"]) -> str:
    from jaxsep.evaluation.report import AGGREGATES, cells

    headings = ["system", "metric", "stem", "tracks", *(name.replace("_", " ") for name in AGGREGATES)]
    lines = [_row(headings, "th")]
    before = None
    for row in rows:
        lines.append(_row(cells(row), "td", first=(row.system, row.metric) != before))
        before = (row.system, row.metric)
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _tracks(scores: Sequence["TrackScore"]) -> list[str]:
    from jaxsep.evaluation.report import decibels

    metrics = list(dict.fromkeys(score.metric for score in scores))
    by_track: dict[str, dict[tuple[str, str], dict[str, float]]] = {}
    for score in scores:
        by_track.setdefault(score.track, {}).setdefault((score.system, score.stem), {})[score.metric] = (
            score.frames_median
        )
    details = []
    opened = " open" if len(by_track) == 1 else ""
    for track, lines in by_track.items():
        rows = [[*of, *(decibels(values.get(metric, math.nan)) for metric in metrics)] for of, values in lines.items()]
        table = html_table(["system", "stem", *metrics], rows, texts=2)
        details.append(f"<details{opened}><summary>{_text(track)}</summary>{table}</details>")
    return details


def _row(cells: Sequence[str], tag: str, *, first: bool = False, texts: int = 3) -> str:
    numbers = [*[""] * texts, *[' class="n"'] * (len(cells) - texts)]
    inner = "".join(f"<{tag}{kind}>{_text(cell)}</{tag}>" for cell, kind in zip(cells, numbers, strict=True))
    attribute = ' class="first"' if first else ""
    return f"<tr{attribute}>{inner}</tr>"


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _text(value: object) -> str:
    return html.escape(str(value))
