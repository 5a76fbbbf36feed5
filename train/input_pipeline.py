"""Training examples, in order, by Grain: which stretch of which tracks each is follows from the seed and its number.

So a run goes on from its step alone, on any number of hosts. What is varied on the device is in augment.py.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Float32

from jaxsep.errors import AudioError, ConfigError
from train.augment import Examples
from train.config import RunConfig
from train.tracks import Track

logger = logging.getLogger(__name__)

# Stretches that are looked at before a silent one is taken after all, and before nothing is found to be readable.
_ATTEMPTS = 10


class Draw(NamedTuple):
    """What an example is cut out of.

    Attributes:
        tracks: Of each source, by number.
        starts: Of each source, in samples.
        stretch: Pitch in semitones and tempo as a factor; None where the example is played as it is.
    """

    tracks: tuple[int, ...]
    starts: tuple[int, ...]
    stretch: tuple[float, float] | None


class Pipeline:
    """The examples of a run."""

    def __init__(self, config: RunConfig, tracks: Sequence[Track]) -> None:
        """Takes the tracks.

        Args:
            config: Of the run.
            tracks: To learn from, checked.

        Raises:
            ConfigError: Examples are to be stretched and python-stretch is not installed.
        """
        self._config, self._tracks = config, tracks
        self._length = config.segment_length + config.augment.shift
        self._stretch: Callable[..., Any] | None = None
        if config.augment.stretch:
            from train.stretch import load_stretch

            self._stretch = load_stretch()
        self._warned: set[str] = set()

    def batches(self, first_step: int) -> "Batches":
        """Returns this host's share of the batch of every step, from the one after `first_step` on.

        Of each global batch, every host gets as many examples; together they are the same for any number of hosts.
        """
        size, hosts = self._config.training.batch_size, jax.process_count()
        if size % hosts:
            raise ConfigError(f"A batch of {size} does not fall into equal parts for {hosts} hosts.")
        numbers = grain.MapDataset.range(first_step * size, self._config.training.steps * size)
        share = numbers.map(self.example).slice(slice(jax.process_index(), None, hosts))
        data = self._config.data
        options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch * size // hosts)
        return Batches(share.to_iter_dataset(options).batch(size // hosts, batch_fn=_stack))

    def example(self, number: int) -> Examples:
        """Reads one example, without a batch axis.

        Raises:
            AudioError: It cannot be read, and the policy is to stop.
        """
        data = self._config.data
        for attempt in range(_ATTEMPTS):
            drawn = self.draw(number, attempt)
            try:
                sources, mixture = self._read(drawn)
            except (AudioError, OSError) as error:
                place = self._describe(drawn)
                if data.corrupt == "stop":
                    raise AudioError(f"Example {number} ({place}) cannot be read: {error}") from None
                if place.split(" at ")[0] not in self._warned:
                    self._warned.add(place.split(" at ")[0])
                    logger.warning("Example %d (%s) is replaced by another one: %s", number, place, error)
                continue
            if data.silent == "redraw" and attempt < _ATTEMPTS - 1 and self._any_is_silent(sources):
                continue
            return Examples(sources, np.asarray(number, np.int32), mixture)
        raise AudioError(f"Of example {number}, {_ATTEMPTS} different stretches cannot be read; look at the tracks.")

    def describe(self, number: int) -> str:
        """Returns where an example was first looked for: 'track at 12.345 s'."""
        return self._describe(self.draw(number, 0))

    def draw(self, number: int, attempt: int) -> Draw:
        """Says what an example is cut out of.

        Every track comes once in as many examples as there are tracks, in an order of their own each time.

        Args:
            number: Of the example, counted over all steps.
            attempt: Which of its stretches.
        """
        config, count = self._config, len(self._tracks)
        rng = np.random.default_rng((config.training.seed, 1, number, attempt))
        epoch, place = divmod(number, count)
        order = np.random.default_rng((config.training.seed, 0, epoch)).permutation(count)
        sources = len(self._tracks[0].groups)
        if attempt and config.data.corrupt == "substitute":
            order = rng.permutation(count)
        tracks = (int(order[place]),) * sources
        if rng.random() < config.augment.remix:
            tracks = (tracks[0], *map(int, rng.integers(count, size=sources - 1)))
        stretch = None
        if rng.random() < config.augment.stretch:
            pitch, tempo = rng.uniform(-1, 1, 2)
            stretch = (pitch * config.augment.pitch_semitones, 1 + tempo * config.augment.tempo)
        needed = self._needed(stretch)
        # One place for all sources of one track; its own for each that comes from another.
        places = {track: int(rng.integers(max(1, self._tracks[track].length - needed + 1))) for track in tracks}
        return Draw(tracks, tuple(places[track] for track in tracks), stretch)

    def _needed(self, stretch: tuple[float, float] | None) -> int:
        return self._length if stretch is None else int(np.ceil(self._length * stretch[1]))

    def _read(
        self, drawn: Draw
    ) -> tuple[Float32[np.ndarray, "source time channel"], Float32[np.ndarray, "time channel"] | None]:
        needed = self._needed(drawn.stretch)
        read = {
            track: self._tracks[track].sources(start, needed)
            for track, start in zip(drawn.tracks, drawn.starts, strict=True)
        }
        sources = np.stack([read[track][source] for source, track in enumerate(drawn.tracks)])
        mixture = None
        if self._config.data.mixture == "file":
            mixture = self._tracks[drawn.tracks[0]].mixture(drawn.starts[0], needed)
        if drawn.stretch is not None:
            assert self._stretch is not None
            rate = self._config.model.sample_rate
            sources = np.stack([self._stretch(source, rate, *drawn.stretch, self._length) for source in sources])
        return sources, mixture

    def _any_is_silent(self, sources: Float32[np.ndarray, "source time channel"]) -> bool:
        stems = sources[: len(self._config.model.stems)].astype(np.float64)
        return bool(
            (np.sqrt(np.square(stems).mean(axis=(1, 2))) < 10 ** (self._config.data.silent_below_db / 20)).any()
        )

    def _describe(self, drawn: Draw) -> str:
        rate = self._config.model.sample_rate
        places = dict.fromkeys(zip(drawn.tracks, drawn.starts, strict=True))
        return ", ".join(f"'{self._tracks[track].name}' at {start / rate:.3f} s" for track, start in places)


class Batches(Iterator[Examples]):
    """An iterator of batches that can be closed, which ends its threads."""

    def __init__(self, dataset: grain.IterDataset) -> None:
        self._iterator = iter(dataset)

    def __next__(self) -> Examples:
        return next(self._iterator)

    def close(self) -> None:
        """Ends the reading ahead."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


def _stack(examples: Sequence[Examples]) -> Examples:
    """Gives examples a batch axis; all of them have a mixture, or none has."""
    first = examples[0]
    return Examples(
        np.stack([each.sources for each in examples]),
        np.stack([each.index for each in examples]),
        None if first.mixture is None else np.stack([each.mixture for each in examples]),
    )
