"""Box plots as inline SVG, by Tukey's rules, and the legend that goes with them in HTML."""

import html
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxsep.evaluation.palette import colours
from jaxsep.evaluation.scales import LARGEST_DB

_LEFT, _TOP, _HEIGHT, _BOTTOM, _BOX_WIDTH = 48, 22, 220, 30, 26
# Room for a letter of 12 pixels, which is more than most take.
_LETTER = 7.5
# Points beyond the whiskers are drawn at their place up to so much of what all whiskers span.
_REACH = 0.5
# How far a plot may shrink, so that letters of 10 pixels can be read.
_NARROWEST = 0.7

Groups = Sequence[tuple[str, Sequence[tuple[str, Sequence[float]]]]]


def box_plot(groups: Groups, unit: str = "dB") -> str:
    """Returns a box plot as SVG.

    The axis shows all whiskers and what is near them. Points far beyond are triangles at its end, with the number of
    the farthest; so is what is beyond 150 dB, where ratios are rounding.

    Args:
        groups: Label of each group, and in it the boxes, each with the name of its series and its values.
        unit: Unit of the axis; may be empty.
    """
    names = list(dict.fromkeys(name for _, boxes in groups for name, _ in boxes))
    colour_of = dict(zip(names, colours(len(names)), strict=True))
    low, high, step = _axis(*_range([box for _, boxes in groups for _, box in boxes]))

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (high - min(max(value, low), high)) / (high - low)

    x = _LEFT + 10.0
    drawn: list[str] = []
    for label, boxes in groups:
        start = x
        for name, box in boxes:
            if len(box):
                drawn += _box(x + _BOX_WIDTH / 2, box, colour_of[name], y, (low, high))
                drawn += _beyond(x + _BOX_WIDTH / 2, box, colour_of[name], low, high)
            x += _BOX_WIDTH
        room = _LETTER * len(label)
        x = max(x, start + room)
        drawn.append(
            f'<text x="{(start + x) / 2:.1f}" y="{_TOP + _HEIGHT + 20}" text-anchor="middle">{_text(label)}</text>'
        )
        x += 18
    lines = []
    for index in range(round((high - low) / step) + 1):
        tick = low + index * step
        colour = "#7b8794" if abs(tick) < step / 2 else "#e3e7ec"
        lines.append(
            f'<line x1="{_LEFT}" x2="{x:.0f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{colour}"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{round(tick, 9):g}</text>'
        )
    height = _TOP + _HEIGHT + _BOTTOM
    # On narrow windows it shrinks, as far as its text can be read.
    size = f"width:100%;max-width:{x:.0f}px;min-width:{_NARROWEST * x:.0f}px;height:auto"
    return (
        f'<svg role="img" viewBox="0 0 {x:.0f} {height}" width="{x:.0f}" height="{height}" style="{size}">'
        f'<text x="12" y="{_TOP + _HEIGHT / 2}" transform="rotate(-90 12 {_TOP + _HEIGHT / 2})" '
        f'text-anchor="middle">{_text(unit)}</text>' + "".join([*lines, *drawn]) + "</svg>"
    )


def legend(names: Sequence[str]) -> str:
    """Returns the legend of box plots whose series have these names, in their order, as HTML that wraps."""
    pairs = zip(names, colours(len(names)), strict=True)
    items = "".join(f'<li><span style="background:{colour}"></span>{_text(name)}</li>' for name, colour in pairs)
    return f'<ul class="legend">{items}</ul>'


def five_numbers(values: Sequence[float]) -> tuple[float, float, float, float, float]:
    """Returns lower whisker, quartile, median, quartile and upper whisker, by Tukey's rules."""
    low, median, high = (float(each) for each in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    return min([*inside, low]), low, median, high, max([*inside, high])


def _range(boxes: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The ends of all whiskers, and of the points that are not far from them."""
    measured = [[value for value in box if abs(value) < LARGEST_DB] for box in boxes]
    whiskers = [five_numbers(box) for box in measured if box]
    if not whiskers:
        return 0.0, 1.0
    low, high = min(each[0] for each in whiskers), max(each[4] for each in whiskers)
    reach = _REACH * (high - low)
    near = [value for box in measured for value in box if low - reach <= value <= high + reach]
    return min(near), max(near)


def _box(
    x: float, values: Sequence[float], colour: str, y: Callable[[float], float], ends: tuple[float, float]
) -> list[str]:
    bottom, low, median, high, top = five_numbers(values)
    half = _BOX_WIDTH * 0.36
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(bottom):.1f}" y2="{y(top):.1f}" stroke="{colour}"/>',
        f'<rect x="{x - half:.1f}" y="{y(high):.1f}" width="{2 * half:.1f}" height="{max(y(low) - y(high), 0.5):.1f}" '
        f'fill="{colour}" fill-opacity="0.3" stroke="{colour}"/>',
        f'<line x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y(median):.1f}" y2="{y(median):.1f}" stroke="{colour}" '
        'stroke-width="2.5"/>',
        *(
            f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>'
            for value in values
            if not bottom <= value <= top and ends[0] <= value <= ends[1]
        ),
    ]


def _beyond(x: float, values: Sequence[float], colour: str, low: float, high: float) -> list[str]:
    """A triangle at the end of the axis for what lies beyond it, and the number of the farthest."""
    marks = []
    for farthest, is_beyond, edge, point, text in (
        (max(values), max(values) > high, _TOP, -1, _TOP - 10),
        (min(values), min(values) < low, _TOP + _HEIGHT, 1, _TOP + _HEIGHT - 6),
    ):
        if not is_beyond:
            continue
        shown = f"{'&gt;' if farthest > 0 else '&lt;'}{'' if farthest > 0 else '-'}{LARGEST_DB:.0f}"
        number = shown if abs(farthest) >= LARGEST_DB else f"{farthest:.0f}"
        marks.append(
            f'<path d="M{x - 5:.1f} {edge} L{x + 5:.1f} {edge} L{x:.1f} {edge + 8 * point} Z" fill="{colour}"/>'
            f'<text x="{x:.1f}" y="{text}" text-anchor="middle" class="small">{number}</text>'
        )
    return marks


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Returns ends and step of an axis with some six round numbers on it."""
    span = max(high - low, 1e-3)
    power = 10.0 ** math.floor(math.log10(span / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= span)
    return math.floor(low / step - 0.01) * step, math.ceil(high / step + 0.01) * step, step


def _text(value: object) -> str:
    return html.escape(str(value))
