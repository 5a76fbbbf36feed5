"""The songs of a study: read once into one file, and the batches that all frameworks learn from.

Which song and place an example comes from, and how loud its sources are, follows from the seed, the step and the
example alone. Nothing is trained here.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxsep.compare.study_config import StudyConfig
from jaxsep.errors import AudioError, ConfigError, nearest
from jaxsep.evaluation.tracks import TrueTrack, describe, find_folders, summed
from jaxsep.naming import new_files

# Of synthetic songs: how many, and how long.
_SYNTHETIC, _SYNTHETIC_SECONDS = 5, 12
_STORE = "songs.npy"
_INDEX = "songs.json"

Sources = Float32[np.ndarray, "source time channel"]


class Songs:
    """All songs of a study, on disk as `prepare_songs` leaves them.

    Attributes:
        names: In their order.
        train: Which are learned from.
        test: Which are scored.
        sha256: Of all samples.
    """

    def __init__(self, folder: Path, config: StudyConfig) -> None:
        """Opens them; nothing is read yet.

        Args:
            folder: That `prepare_songs` wrote.
            config: The study.
        """
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        self._spans: dict[str, tuple[int, int]] = {name: (start, end) for name, start, end in index["songs"]}
        self._samples = np.load(folder / _STORE, mmap_mode="r")
        self.sha256: str = index["sha256"]
        self.names = tuple(self._spans)
        self.test = config.data.test or self.names[-1:]
        self.train = tuple(name for name in self.names if name not in self.test)

    def sources(self, name: str, start: int = 0, length: int | None = None) -> Sources:
        """Returns a stretch of a song's sources; what lies beyond its end is silent.

        Args:
            name: Which song.
            start: The first sample.
            length: Samples; None for all that follows.
        """
        begin, end = self._spans[name]
        length = end - begin - start if length is None else length
        there = np.asarray(self._samples[:, begin + start : min(begin + start + length, end)])
        return np.pad(there, [(0, 0), (0, length - there.shape[1]), (0, 0)])

    def length(self, name: str) -> int:
        """Returns how many samples a song has."""
        begin, end = self._spans[name]
        return end - begin

    def batch(self, config: StudyConfig, seed: int, step: int) -> Float32[np.ndarray, "batch source time channel"]:
        """Returns the sources of the examples of a step.

        Args:
            config: The study.
            seed: Of the run.
            step: From 0.
        """
        data, length = config.data, config.model.chunk_length
        examples = []
        for example in range(config.training.batch_size):
            rng = np.random.default_rng([seed, step, example])
            remixed = rng.random() < data.remix
            places = [self._place(rng, length) for _ in config.model.stems]
            gains = rng.uniform(data.gain_low, data.gain_high, len(places)).astype(np.float32)
            examples.append(
                np.stack(
                    [
                        gain * self.sources(*(place if remixed else places[0]), length)[number]
                        for number, (place, gain) in enumerate(zip(places, gains, strict=True))
                    ]
                )
            )
        return np.stack(examples)

    def _place(self, rng: np.random.Generator, length: int) -> tuple[str, int]:
        """A place in the songs that are learned from, each sample as probable as any other."""
        rooms = np.array([max(self.length(name) - length, 0) + 1 for name in self.train])
        at = int(rng.integers(rooms.sum()))
        song = int(np.searchsorted(np.cumsum(rooms), at, side="right"))
        return self.train[song], at - int(rooms[:song].sum())


def prepare_songs(config: StudyConfig, folder: Path) -> Songs:
    """Reads all songs once, unless that was done.

    Args:
        config: The study.
        folder: Where they go.

    Raises:
        ConfigError: There are no such songs, or they have no such stems.
        AudioError: A file cannot be decoded, or has another rate or number of channels than the model.
    """
    if not (folder / _INDEX).exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = list(_synthetic(config) if config.data.synthetic else _from_disk(config))
        spans: list[tuple[str, int, int]] = []
        for name, sources in found:
            start = spans[-1][2] if spans else 0
            spans.append((name, start, start + sources.shape[1]))
        samples = np.concatenate([sources for _, sources in found], axis=1)
        digest = hashlib.sha256(samples.tobytes()).hexdigest()
        paths = [folder / _STORE, folder / _INDEX]
        with new_files(paths, replaced=paths) as (store, index):
            with store.open("wb") as file:
                np.save(file, samples)
            index.write_text(json.dumps({"songs": spans, "sha256": digest}), encoding="utf-8")
    return Songs(folder, config)


def check_songs(config: StudyConfig) -> None:
    """Sees that the songs on disk are what the study needs; only headers are read. Raises as `prepare_songs`."""
    if not config.data.synthetic:
        _find(config)


def _find(config: StudyConfig) -> list[TrueTrack]:
    tracks = find_folders(Path(str(config.data.root)))
    names = [track.name for track in tracks]
    for name in config.data.test:
        if name not in names:
            raise ConfigError(f"There is no song '{name}' in '{config.data.root}'.{nearest(name, names)}")
    if len(names) == len(config.data.test):
        raise ConfigError(f"All songs in '{config.data.root}' are under 'data.test'; leave some to learn from.")
    wanted = (config.model.sample_rate, config.model.channels)
    for track in tracks:
        track.sources(config.model.stems)
        if (track.sample_rate, track.channels) != wanted:
            raise AudioError(
                f"The song '{track.name}' has {describe((track.sample_rate, track.channels))}, "
                f"and the model {describe(wanted)}; convert the files."
            )
    return tracks


def _from_disk(config: StudyConfig) -> Iterator[tuple[str, Sources]]:
    for track in _find(config):
        streams = track.sources(config.model.stems)
        sources = [np.concatenate(list(summed(streams[stem]))) for stem in config.model.stems]
        length = max(map(len, sources))
        yield track.name, np.stack([np.pad(each, [(0, length - len(each)), (0, 0)]) for each in sources])


def _synthetic(config: StudyConfig) -> Iterator[tuple[str, Sources]]:
    """Songs in which every second source is a melody of tones, and the others are bursts of noise."""
    rate, channels = config.model.sample_rate, config.model.channels
    seconds = np.arange(_SYNTHETIC_SECONDS * rate) / rate
    for number in range(_SYNTHETIC):
        rng = np.random.default_rng([7, number])
        sources = []
        for source in range(len(config.model.stems)):
            beats = int(_SYNTHETIC_SECONDS / 0.5)
            swell = np.exp(-4 * np.mod(seconds, 0.5))
            if source % 2:
                one = rng.standard_normal(seconds.size) * swell
            else:
                hz = 110 * 2 ** (rng.integers(0, 24, beats) / 12)
                phase = 2 * np.pi * np.cumsum(np.repeat(hz, rate // 2)[: seconds.size]) / rate
                one = sum(np.sin(k * phase) / k for k in range(1, 5)) * (0.3 + swell)
            sources.append(np.outer(0.2 * one, np.linspace(1, 0.8, channels)))
        yield f"synthetic {number}", np.stack(sources).astype(np.float32)


def magnitude_maker(config: StudyConfig) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
    """Returns what makes of a batch of sources what a network maps and what it is to give.

    Args:
        config: The study.

    Returns:
        A function from sources (batch, source, time, channel) to the magnitudes of their mixture (batch, frame, freq,
        channel) and their own (batch, source, frame, freq, channel), float32, of the model's bins. It is the same
        program for every framework.
    """
    import jax
    import jax.numpy as jnp

    domain = config.model.domain

    @jax.jit
    def magnitudes(sources: Any) -> Any:
        waveforms = jnp.concatenate([sources.sum(axis=1, keepdims=True), sources], axis=1)
        return domain.targets(waveforms)

    def make(sources: Any) -> tuple[np.ndarray, np.ndarray]:
        found = np.asarray(magnitudes(sources))
        return np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1:])

    return make
