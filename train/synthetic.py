"""Recordings that are computed, for runs without data: each part a tone of its own, or noise."""

from collections.abc import Sequence

import numpy as np

from train.recordings import Parts, Recording

TRACKS = {"train": 8, "validation": 2}
SECONDS = 30
_BLOCK = 4096


class SyntheticRecording(Recording):
    """Parts in turn: a warbling tone, and noise that comes and goes."""

    has_mixture = False

    def __init__(self, number: int, parts: Sequence[str], *, sample_rate: int, channels: int) -> None:
        """Computes nothing yet.

        Args:
            number: Which recording; they differ in pitch and noise.
            parts: Names of the parts.
            sample_rate: In Hz.
            channels: Of each part.
        """
        self.name = f"synthetic {number}"
        self.parts = tuple(parts)
        self.sample_rate, self.channels = sample_rate, channels
        self.length = SECONDS * sample_rate
        self._number = number

    def read(self, parts: Sequence[str], start: int, length: int) -> Parts:
        """See `Recording.read`."""
        audio = np.zeros((len(parts), length, self.channels), np.float32)
        there = slice(0, max(0, min(length, self.length - start)))
        for out, part in zip(audio, parts, strict=True):
            index = self.parts.index(part)
            make = self._noise if index % 2 else self._tone
            out[there] = make(index, start, there.stop)
        return audio

    def _tone(self, index: int, start: int, length: int) -> np.ndarray:
        """A tone of three partials below a quarter of the sample rate, at -16 dB."""
        seconds = np.arange(start, start + length)[:, None] / self.sample_rate
        hz = self.sample_rate / 96 * (1 + 0.09 * self._number) * (1 + 0.5 * index)
        partials = np.arange(1, 4) * hz
        partials = partials[partials < self.sample_rate / 4]
        warble = np.sin(2 * np.pi * 5 * seconds)
        tone = np.sin(2 * np.pi * seconds * partials + 0.3 * warble).sum(axis=1, keepdims=True)
        return 0.16 * tone * np.linspace(1, 0.6, self.channels)

    def _noise(self, index: int, start: int, length: int) -> np.ndarray:
        """White noise at -20 dB, swelling once in two seconds."""
        first = start // _BLOCK
        blocks = [
            np.random.default_rng([self._number, index, block]).standard_normal((_BLOCK, self.channels))
            for block in range(first, -(-(start + length) // _BLOCK))
        ]
        noise = np.concatenate([np.empty((0, self.channels)), *blocks])[start - first * _BLOCK :][:length]
        seconds = np.arange(start, start + length)[:, None] / self.sample_rate
        return 0.1 * noise * (0.6 + 0.4 * np.sin(np.pi * seconds + self._number))
