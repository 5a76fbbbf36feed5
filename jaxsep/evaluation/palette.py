"""Colours of systems in pictures, which do not repeat: the first seven are told apart by the colour-blind."""

import colorsys

# Okabe and Ito's without yellow and black, then those of Paul Tol's muted scheme that are unlike them.
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#8a8a8a",
    "#332288",
    "#882255",
    "#999933",
    "#117733",
    "#aa4499",
)
# Of a turn of hue: neighbours are far apart however many there are.
_GOLDEN = 0.61803398875


def colours(count: int) -> list[str]:
    """Returns so many different colours, as '#rrggbb'."""
    more = []
    for number in range(count - len(_COLOURS)):
        red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN % 1.0, 0.35 + 0.1 * (number % 3), 0.6)
        more.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return [*_COLOURS, *more][:count]
