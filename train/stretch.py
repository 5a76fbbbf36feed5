"""Playing audio at another pitch and tempo, by Signalsmith Stretch (https://signalsmith-audio.co.uk/code/stretch)."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxsep.errors import ConfigError

# The stretcher's latency; so much at both ends of what it gives is fainter than it should be, and cut off.
_EDGE_SECONDS = 0.06


def stretch(
    sources: Float32[np.ndarray, "source time channel"],
    length: int,
    *,
    semitones: float,
    tempo: float,
    sample_rate: int,
) -> Float32[np.ndarray, "source stretched channel"]:
    """Returns sources at another pitch and tempo; what sounds together still does.

    All sources go through one stretcher, which decides on phases for all of its channels at once.

    Args:
        sources: `read_length(length, tempo, sample_rate)` samples or more.
        length: Samples of the result.
        semitones: By how much the pitch rises.
        tempo: By what factor it becomes faster.
        sample_rate: In Hz.

    Raises:
        ConfigError: python-stretch is not installed.
    """
    n_sources, time, channels = sources.shape
    stretcher = _load_signalsmith().Stretch()
    stretcher.preset(n_sources * channels, sample_rate)
    stretcher.setTransposeSemitones(semitones)
    stretcher.setTimeFactor(tempo)
    flat = np.ascontiguousarray(np.moveaxis(sources, 1, 2).reshape(-1, time))
    edge = _edge(sample_rate)
    stretched = stretcher.process(flat)[:, edge : edge + length].reshape(n_sources, channels, length)
    return np.ascontiguousarray(np.moveaxis(stretched, 1, 2))


def read_length(length: int, tempo: float, sample_rate: int) -> int:
    """Returns how many samples become `length` at a tempo, the edges not counted."""
    # The stretcher rounds the count.
    return math.ceil((length + 2 * _edge(sample_rate)) * tempo) + 2


def check_available() -> None:
    """Raises ConfigError where python-stretch is missing."""
    _load_signalsmith()


def _edge(sample_rate: int) -> int:
    return round(_EDGE_SECONDS * sample_rate)


def _load_signalsmith() -> Any:
    try:
        from python_stretch import Signalsmith
    except ImportError:
        raise ConfigError(
            "augment.stretch needs python-stretch, which is not installed: pip install 'jaxsep[augment]'."
        ) from None
    return Signalsmith
