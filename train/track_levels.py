"""The levels at which a network learns from tracks whose procedure normalises them; `jaxsep.separation.levels`."""

import threading
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from jaxsep.models.spec import ModelSpec
from jaxsep.separation.levels import Levels, measure_levels
from train.tracks import Track

# Samples of a track that are read at a time.
_BLOCK = 1 << 18


class TrackLevels:
    """Measures the mixture of each track once, when an example of it is first asked for."""

    def __init__(self, spec: ModelSpec) -> None:
        """Measures nothing yet.

        Args:
            spec: The model, whose `procedure.normalise` is followed.
        """
        self._normalise, self._channels = spec.procedure.normalise, spec.channels
        self._found: dict[str, Levels] = {}
        self._lock = threading.Lock()

    @property
    def are_asked_for(self) -> bool:
        """Whether the model hears tracks at another level than their own."""
        return self._normalise is not None

    def normalised(
        self, track: Track, audio: Float32[np.ndarray, "*source time channel"]
    ) -> Float32[np.ndarray, "*source time channel"]:
        """Returns audio of a track, its mixture or sources, as the network is to hear or to give it.

        As Demucs trains (demucs/wav.py): from each source the mixture's mean is taken, and all are divided by its
        deviation.

        Raises:
            AudioError: The track cannot be read.
        """
        if self._normalise is None:
            return audio
        with self._lock:
            if track.name not in self._found:
                self._found[track.name] = measure_levels(_blocks(track), self._normalise, self._channels)
            levels = self._found[track.name]
        return levels.normalised(audio).astype(np.float32, copy=False)


def _blocks(track: Track) -> Iterator[Float32[np.ndarray, "time channel"]]:
    for start in range(0, track.length, _BLOCK):
        yield track.read_mixture(start, min(_BLOCK, track.length - start))
