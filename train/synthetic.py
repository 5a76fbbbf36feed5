"""Tracks that are computed: chords, beats and noise, for trying out a recipe without data.

Nothing in them is music; a network learns to tell them apart within seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_SECONDS = 20.0
_TRAIN, _VALIDATION = 6, 2


@dataclass(frozen=True)
class SyntheticRecording:
    """A song of four sources that sound apart: a voice, drums, a bass and chords.

    Attributes:
        name: Of the song.
        seed: What it is.
        sample_rate: In Hz.
        channels: Of every source.
    """

    name: str
    seed: int
    sample_rate: int
    channels: int

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the sources."""
        return ("vocals", "drums", "bass", "other")

    @property
    def length(self) -> int:
        """In samples."""
        return round(_SECONDS * self.sample_rate)

    def read(self, parts: Sequence[str], start: int, length: int) -> Any:
        """Returns a stretch of some parts, float32 (part, time, channel), silent beyond the end."""
        found = np.zeros((len(parts), length, self.channels), np.float32)
        for samples, part in zip(found, parts, strict=True):
            stretch = self._waveforms[part][start : start + length]
            samples[: len(stretch)] = stretch
        return found

    @cached_property
    def _waveforms(self) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        time = np.arange(self.length) / self.sample_rate
        top = self.sample_rate / 2
        pitches = 220 * 2 ** (rng.integers(0, 12, 64) / 12)
        note = np.repeat(pitches, -(-self.length // 64))[: self.length]
        vibrato = 1 + 0.01 * np.sin(2 * np.pi * 5.5 * time)
        phase = 2 * np.pi * np.cumsum(note * vibrato) / self.sample_rate
        voice = sum(np.sin(k * phase) / k for k in range(1, 9) if k * note.max() * 1.01 < top)
        beat = (time * 2.0) % 1.0
        drums = rng.standard_normal(self.length) * np.exp(-30 * beat)
        bass = np.sin(2 * np.pi * np.cumsum(note / 4) / self.sample_rate) + 0 * time
        chord = sum(np.sin(2 * np.pi * 330 * ratio * time + rng.uniform(0, 6)) for ratio in (1, 1.26, 1.5))
        levels: dict[str, Any] = {
            "vocals": 0.1 * voice,
            "drums": 0.2 * drums,
            "bass": 0.15 * bass,
            "other": 0.05 * chord,
        }
        pan = {part: rng.uniform(0.5, 1, self.channels) for part in levels}
        return {part: (wave[:, None] * pan[part]).astype(np.float32) for part, wave in levels.items()}


def synthetic_recordings(sample_rate: int, channels: int) -> tuple[list[SyntheticRecording], list[SyntheticRecording]]:
    """Returns recordings for training and for validation."""
    songs = [
        SyntheticRecording(f"synthetic {seed}", seed, sample_rate, channels) for seed in range(_TRAIN + _VALIDATION)
    ]
    return songs[:_TRAIN], songs[_TRAIN:]
