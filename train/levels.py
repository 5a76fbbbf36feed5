"""How loud the parts of recordings are, whether they add up to the mixture's file, and what to say about it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from jaxsep.errors import AudioError
from train.recordings import MIXTURE, Recording, some_of

# Below this a part counts as silent, if so much of it or all of it was looked at.
_SILENT_DB = -90.0
_ENOUGH_SECONDS = 3.0
# Samples of audio lie between -1 and 1; somewhat louder ones are heard of in float files, these are other numbers.
_LARGEST = 100.0
# The sum of files may differ from the mixture by rounding; not by more.
_RESIDUAL_DB = -40.0


class Levels:
    """Adds up the energies of what was looked at of a recording: each part, the mixture's file, and their difference.

    Attributes:
        name: Of the recording.
    """

    def __init__(self, recording: Recording) -> None:
        """Has looked at nothing yet."""
        self.name = recording.name
        self._parts, self._has_mixture = recording.parts, recording.has_mixture
        self._energies = np.zeros(len(self._parts))
        self._places = [recording.describe_part(part) for part in self._parts]
        if self._has_mixture:
            self._places.append(recording.describe_part(MIXTURE))
        self._peaks = np.zeros(len(self._places))
        self._mixture = self._residual = 0.0
        self._values = 0
        self._enough = min(round(_ENOUGH_SECONDS * recording.sample_rate), recording.length) * recording.channels

    def add(self, audio: Float32[np.ndarray, "part time channel"]) -> None:
        """Looks at a stretch of all parts, and of the mixture after them where it is there."""
        parts = audio[: len(self._parts)]
        self._peaks = np.maximum(self._peaks, np.abs(audio).max(axis=(1, 2), initial=0))
        self._energies += np.einsum("ptc,ptc->p", parts, parts, dtype=np.float64)
        self._values += parts[0].size
        if self._has_mixture:
            self._mixture += float(np.square(audio[-1], dtype=np.float64).sum())
            self._residual += float(np.square(audio[-1] - parts.sum(axis=0), dtype=np.float64).sum())

    @property
    def errors(self) -> list[AudioError]:
        """What cannot be music, by its level: each file with its peak."""
        return [
            AudioError(
                f"{place} reaches {peak:.3g}, {20 * np.log10(peak):.0f} dB above full scale, which is no music; scale "
                "it to between -1 and 1."
            )
            for place, peak in zip(self._places, self._peaks, strict=True)
            if peak > _LARGEST
        ]

    @property
    def silent_parts(self) -> list[str]:
        """Parts that were silent in all that was looked at, if that was enough to tell."""
        if self._values < self._enough:
            return []
        return [part for part, energy in zip(self._parts, self._energies, strict=True) if energy <= self._silence]

    @property
    def residual_db(self) -> float:
        """The mixture's file less the sum of the parts, in dB of the file; -inf where there is none."""
        if self._residual <= self._silence:
            return -np.inf
        return float(10 * np.log10(self._residual / max(self._mixture, self._silence)))

    @property
    def _silence(self) -> float:
        return float(10 ** (_SILENT_DB / 10) * max(1, self._values))


def warn_of_levels(levels: Sequence[Levels], where: str) -> list[str]:
    """Returns what should be known of recordings, a sentence each.

    Args:
        levels: Of all of them.
        where: What was looked at ('throughout').
    """
    found = []
    if silent := [f"{', '.join(each.silent_parts)} of {each.name}" for each in levels if each.silent_parts]:
        found.append(f"Silent {where}: {some_of(silent)}.")
    apart = [each for each in levels if each.residual_db > _RESIDUAL_DB]
    if apart:
        worst = max(each.residual_db for each in apart)
        found.append(
            f"The mixture's file is not the sum of the parts in {some_of([each.name for each in apart])}; the "
            f"difference reaches {worst:.1f} dB of the mixture."
        )
    return found
