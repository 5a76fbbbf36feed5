"""Examples of a run: which stretch of which track each is, read by Grain's threads ahead of the step.

Example number i of a run is a function of the seed and i alone, so that a run goes on at any step, on any number of
hosts, with the examples that it would have had. What varies on the device is in augment.py.
"""

import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from jaxtyping import Float32

from jaxsep.errors import AudioError, ConfigError
from train.augment import Examples
from train.config import RunConfig
from train.problems import Problems
from train.stretch import read_length as stretched_read_length
from train.stretch import stretch
from train.track_levels import TrackLevels
from train.tracks import REST, Track

Sources = Float32[np.ndarray, "source time channel"]
Mixture = Float32[np.ndarray, "time channel"]

logger = logging.getLogger(__name__)

# What draws are for; seeds of numpy that differ by zeros at their end are the same seed.
_ORDER, _EXAMPLE, _EXCHANGE = 1, 2, 3
_REDRAWS = 10
# When so many examples in a row cannot be read, it is not the examples.
_SUBSTITUTES = 20


def read_length(config: RunConfig) -> int:
    """Returns how many samples of a track an example takes at most."""
    length = config.segment_length + config.augment.shift
    if not config.augment.stretch:
        return length
    return stretched_read_length(length, 1 + config.augment.tempo, config.model.sample_rate)


def usable_tracks(tracks: Sequence[Track], config: RunConfig, problems: Problems) -> tuple[Track, ...]:
    """Returns the tracks that examples are cut out of: those that are long enough, or are padded.

    Args:
        tracks: The tracks to learn from.
        config: The run's config, which says what is done with shorter ones.
        problems: Takes shorter ones, if they are refused.
    """
    needed, rate = read_length(config), config.model.sample_rate
    short = [track for track in tracks if track.length < needed]
    if config.data.short == "refuse":
        for track in short:
            problems.add(
                ConfigError(
                    f"An example takes {needed / rate:.2f} s, and {track.name} ({track.length / rate:.2f} s) is "
                    "shorter; take it away, lower data.segment_length, or set data.short to 'pad' or 'leave_out'."
                )
            )
    return tuple(tracks) if config.data.short == "pad" else tuple(track for track in tracks if track not in short)


@runtime_checkable
class Batches(Protocol):
    """An iterator that can be ended early."""

    def __iter__(self) -> Iterator[Examples]: ...

    def __next__(self) -> Examples: ...

    def close(self) -> None:
        """Gives up what was read ahead, and the threads."""


class Draw(NamedTuple):
    """Where an example comes from.

    Attributes:
        tracks: The track of each source, by number; one for all where they are not mixed anew.
        starts: Its first sample, likewise.
        semitones: By how much its pitch rises.
        tempo: By what factor it is faster.
    """

    tracks: tuple[int, ...]
    starts: tuple[int, ...]
    semitones: float = 0.0
    tempo: float = 1.0

    @property
    def is_stretched(self) -> bool:
        """Whether pitch or tempo change."""
        return (self.semitones, self.tempo) != (0.0, 1.0)


class Pipeline:
    """The examples of a run."""

    def __init__(
        self, config: RunConfig, tracks: Sequence[Track], *, host: int | None = None, hosts: int | None = None
    ) -> None:
        """Reads nothing yet.

        Args:
            config: The run's config.
            tracks: To learn from; checked.
            host: Which one this is; None for JAX's process.
            hosts: How many there are; None for all of JAX's.

        Raises:
            ConfigError: A track is shorter than an example, and not to be padded or left out.
        """
        problems = Problems()
        self._config, self._tracks = config, usable_tracks(tracks, config, problems)
        problems.refuse()
        self._host = jax.process_index() if host is None else host
        self._hosts = jax.process_count() if hosts is None else hosts
        self._n_sources = len(self._tracks[0].sources)
        self._levels = TrackLevels(config.model)
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def batches(self, first_step: int = 0) -> Batches:
        """Returns this host's share of the batch of each step, from a step on to the end of the run.

        Reading begins at once, in threads.

        Args:
            first_step: Steps that have been made.

        Raises:
            AudioError: From the iterator: an example cannot be read, and `data.corrupt` is 'stop'.
        """
        data = self._config.data
        options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=max(data.prefetch, data.threads))
        steps = grain.MapDataset.range(first_step, self._config.training.steps)
        iterator = iter(steps.map(self.batch).to_iter_dataset(options))
        iterator.start_prefetch()
        return iterator

    def batch(self, step: int) -> Examples:
        """Returns this host's share of a batch: neighbours, so that devices have the same for any number of hosts.

        Args:
            step: Steps that were made before.

        Raises:
            AudioError: As for `batches`.
        """
        config = self._config
        share = config.training.batch_size // self._hosts
        first = int(step) * config.training.batch_size + self._host * share
        numbers = range(first, first + share)
        length = config.segment_length + config.augment.shift
        channels = config.model.channels
        sources = np.empty((len(numbers), self._n_sources, length, channels), np.float32)
        from_file = config.data.mixture == "file"
        mixture = np.empty((len(numbers), length, channels), np.float32) if from_file else None
        origins = np.array([self._origins(number) for number in numbers])
        for origin in np.unique(origins):
            _, read, own_mixture = self._example(int(origin))
            for position, source in np.argwhere(origins == origin):
                sources[position, source] = read[source]
            if mixture is not None:
                mixture[origin - first] = own_mixture
        return Examples(sources, np.asarray(numbers, np.int32), mixture)

    def epoch(self, step: int) -> float:
        """Returns how often each track has come, on average, in the examples of so many steps."""
        return step * self._config.training.batch_size / len(self._tracks)

    def describe(self, number: int) -> str:
        """Says where an example comes from ('armygeddon at 12.345 s'). Reads it again.

        Args:
            number: Of the run, as in `Examples.index`.
        """
        origins = self._origins(number)
        draws = {origin: self._example(origin)[0] for origin in sorted(set(origins))}
        sources = range(self._n_sources)
        places = [self._place(draws[origin], source) for origin, source in zip(origins, sources, strict=True)]
        if len(set(origins)) == 1 and len(draws[number].tracks) == 1:
            return places[0]
        names = (*self._config.model.stems, REST)
        return ", ".join(f"{name} of {place}" for name, place in zip(names, places, strict=False))

    def _place(self, draw: Draw, source: int) -> str:
        """Says where a source of an example comes from."""
        which = source if len(draw.tracks) > 1 else 0
        seconds = draw.starts[which] / self._config.model.sample_rate
        changed = f" ({draw.semitones:+.2f} semitones, {draw.tempo:.3f} times as fast)" if draw.is_stretched else ""
        return f"{self._tracks[draw.tracks[which]].name} at {seconds:.3f} s{changed}"

    def _origins(self, number: int) -> tuple[int, ...]:
        """Returns the example that each source of an example was read for: others of its group, or itself."""
        size = self._config.augment.remix_group
        if size is None:
            return (number,) * self._n_sources
        group, place = divmod(number, size)
        rng = np.random.default_rng([_EXCHANGE, self._config.training.seed, group])
        return tuple(group * size + int(rng.permutation(size)[place]) for _ in range(self._n_sources))

    def _example(self, number: int) -> tuple[Draw, Sources, Mixture | None]:
        """Draws until something can be read, and is not silent where that matters."""
        data = self._config.data
        redraws = substitutes = 0
        while True:
            draw = self._draw(number, redraws + substitutes, substitute=substitutes > 0)
            try:
                sources, mixture = self._read(draw)
            except AudioError as error:
                substitutes += 1
                if data.corrupt == "stop" or substitutes > _SUBSTITUTES:
                    raise error
                continue
            if data.silent == "keep" or redraws == _REDRAWS or not self._any_silent(sources):
                return draw, *self._levelled(draw, sources, mixture)
            redraws += 1

    def _levelled(self, draw: Draw, sources: Sources, mixture: Mixture | None) -> tuple[Sources, Mixture | None]:
        """Returns an example at the level that the network hears its tracks at."""
        if not self._levels.are_asked_for:
            return sources, mixture
        tracks = [self._tracks[track] for track in draw.tracks]
        if len(tracks) == 1:
            mixture = None if mixture is None else self._levels.normalised(tracks[0], mixture)
            return self._levels.normalised(tracks[0], sources), mixture
        parts = zip(tracks, sources, strict=True)
        return np.stack([self._levels.normalised(track, source) for track, source in parts]), mixture

    def _draw(self, number: int, attempt: int, *, substitute: bool) -> Draw:
        """Says where an example comes from.

        Every track comes once in as many examples as there are tracks; so it does for each source where sources are
        mixed anew. Where what was drawn before cannot be read, it may come again.
        """
        augment, seed = self._config.augment, self._config.training.seed
        rng = np.random.default_rng([_EXAMPLE, seed, number, attempt])
        n_places = self._n_sources if rng.random() < augment.remix else 1
        if substitute:
            tracks = tuple(int(track) for track in rng.integers(len(self._tracks), size=n_places))
        else:
            epoch, place = divmod(number, len(self._tracks))
            tracks = tuple(_order(seed, epoch, source, len(self._tracks))[place] for source in range(n_places))
        semitones, tempo = 0.0, 1.0
        if rng.random() < augment.stretch:
            semitones = rng.uniform(-augment.pitch_semitones, augment.pitch_semitones)
            tempo = rng.uniform(1 - augment.tempo, 1 + augment.tempo)
        draw = Draw(tracks, (0,) * n_places, semitones, tempo)
        # Silence follows a track that is shorter, from its first sample on.
        spare = [max(self._tracks[track].length - self._read_length(draw), 0) for track in tracks]
        return draw._replace(starts=tuple(int(rng.integers(each + 1)) for each in spare))

    def _read_length(self, draw: Draw) -> int:
        length = self._config.segment_length + self._config.augment.shift
        if not draw.is_stretched:
            return length
        return stretched_read_length(length, draw.tempo, self._config.model.sample_rate)

    def _read(self, draw: Draw) -> tuple[Sources, Mixture | None]:
        length = self._read_length(draw)
        tracks = [self._tracks[track] for track in draw.tracks]
        mixture = None
        if len(tracks) == 1:
            with self._telling_of(tracks[0]):
                sources = tracks[0].read(draw.starts[0], length)
                if tracks[0].mixture_is_file:
                    mixture = tracks[0].read_mixture(draw.starts[0], length)
        else:
            sources = np.empty((len(tracks), length, self._config.model.channels), np.float32)
            for source, (track, start) in enumerate(zip(tracks, draw.starts, strict=True)):
                with self._telling_of(track):
                    sources[source] = track.read(start, length, only=source)[0]
        if draw.is_stretched:
            sources = stretch(
                sources,
                self._config.segment_length + self._config.augment.shift,
                semitones=draw.semitones,
                tempo=draw.tempo,
                sample_rate=self._config.model.sample_rate,
            )
        return sources, mixture

    @contextmanager
    def _telling_of(self, track: Track) -> Iterator[None]:
        """Tells once of a track that cannot be read, where others are to be taken in its place."""
        try:
            yield
        except AudioError as error:
            told = str(error).removesuffix(".")
            if self._config.data.corrupt == "stop":
                raise AudioError(
                    f"{told}; mend it, or set data.corrupt to 'substitute' to go on without it."
                ) from error
            with self._lock:
                if track.name not in self._told:
                    self._told.add(track.name)
                    logger.warning("%s; other examples are taken in its place.", told)
            raise AudioError(f"{told}; nor could what was taken in its place be read.") from error

    def _any_silent(self, sources: Sources) -> bool:
        """Whether a stem of the model is silent throughout."""
        stems = sources[: len(self._config.model.stems)]
        power = np.einsum("stc,stc->s", stems, stems, dtype=np.float64) / stems[0].size
        return bool(power.min() < 10 ** (self._config.data.silent_below_db / 10))


@functools.lru_cache(maxsize=64)
def _order(seed: int, epoch: int, source: int, n_tracks: int) -> tuple[int, ...]:
    """Returns the tracks in the order in which a source of an epoch's examples takes them."""
    order = np.random.default_rng([_ORDER, seed, epoch, source]).permutation(n_tracks)
    return tuple(int(track) for track in order)
