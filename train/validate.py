"""Validation: whole tracks separated by what `jaxsep separate` runs, scored, and what a run makes of its scores.

When it happens is the loop's affair, what becomes of the numbers the writers'.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxsep.errors import ConfigError, JaxsepError
from jaxsep.metrics.sdr import global_sdr
from jaxsep.separation.levels import measure_levels
from jaxsep.separation.separator import Model, Separator
from jaxsep.training.objective import Batch, objective
from jaxsep.typing import HostSourceWaveform, HostWaveform, Variables
from train.config import RunConfig, ValidationConfig
from train.tracks import Track

# How much of the first track is to be heard and seen.
EXCERPT_SECONDS = 6.0


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Attributes:
        tracks: The global SDR in dB, by track and stem.
        losses: The objective, by track: the mean over its segments, which lie side by side. Tracks of another format
            than the model's, which only Python gives, have none.
        seconds: That it took.
    """

    tracks: dict[str, dict[str, float]]
    losses: dict[str, float]
    seconds: float = field(compare=False)

    @property
    def stems(self) -> dict[str, float]:
        """The mean over tracks of each stem, in dB."""
        rows = list(self.tracks.values())
        return {stem: float(np.mean([row[stem] for row in rows])) for stem in rows[0]}

    @property
    def mean(self) -> float:
        """The mean over stems of those, in dB: the score by which checkpoints are chosen."""
        return float(np.mean(list(self.stems.values())))

    @property
    def loss(self) -> float | None:
        """The mean over tracks of the objective; None where no track has one."""
        return float(np.mean(list(self.losses.values()))) if self.losses else None


@dataclass(frozen=True)
class Excerpt:
    """A part of a track, and what became of it.

    Attributes:
        track: Its name.
        stems: Names of the rows of `sources` and `estimates`.
        mixture: (time, channel).
        sources: The true ones.
        estimates: What the separation gave.
        sample_rate: Sample rate in Hz.
    """

    track: str
    stems: tuple[str, ...]
    mixture: HostWaveform
    sources: HostSourceWaveform
    estimates: HostSourceWaveform
    sample_rate: int


class Validator:
    """Separates and scores tracks with one set of variables after another. Compiles once.

    Attributes:
        every_steps: Steps between validations.
        excerpt: Of the last validation, where there was one: the middle of the first track.
    """

    excerpt: Excerpt

    def __init__(self, config: RunConfig, tracks: Sequence[Track]) -> None:
        """Chooses the tracks.

        Args:
            config: Of the run, which validates.
            tracks: That are kept out of training.

        Raises:
            ConfigError: There is none.
        """
        assert config.validation.every_steps is not None
        if not tracks:
            raise ConfigError(
                "There are no tracks to validate on; name some in data.validation_tracks, or set "
                "validation.every_steps to null."
            )
        self.every_steps = config.validation.every_steps
        self._seconds = config.validation.seconds
        self._tracks = tracks[: config.validation.tracks]
        # Without variables: those of a step are held while they are validated, and given back.
        self._separator = Separator(Model(config.model.network(), {}, config.model, ""), device=jax.local_devices()[0])
        self._loss = TrackLoss(config)

    def scores(self, variables: Variables) -> Scores:
        """Separates and scores all tracks.

        Args:
            variables: `TrainState.evaluated_variables`, replicated or on the host.

        Raises:
            JaxsepError: A track cannot be read, or what becomes of it is not finite.
        """
        began = time.perf_counter()
        separator = self._separator.with_variables(variables)
        tracks, losses = {}, dict[str, float]()
        for number, track in enumerate(self._tracks):
            try:
                tracks[track.name], loss = self._score(separator, track, keep=number == 0)
            except JaxsepError as error:
                raise type(error)(f"Track '{track.name}' cannot be validated: {error}") from None
            losses |= {} if loss is None else {track.name: loss}
        return Scores(tracks, losses, time.perf_counter() - began)

    def _score(self, separator: Separator, track: Track, *, keep: bool) -> tuple[dict[str, float], float | None]:
        sample_rate = track.recording.sample_rate
        start, length = middle(track.length, sample_rate, self._seconds)
        everything = track.read(start, length)
        mixture = track.read_mixture(start, length) if track.mixture_is_file else everything.sum(axis=0)
        sources = everything[: len(separator.stems)]
        separated = separator.separate(mixture, sample_rate)
        estimates = np.stack([separated.stems[stem] for stem in separator.stems])
        if keep:
            first, count = middle(length, sample_rate, EXCERPT_SECONDS)
            part = slice(first, first + count)
            self.excerpt = Excerpt(
                track.name, separator.stems, mixture[part], sources[:, part], estimates[:, part], sample_rate
            )
        sdr = dict(zip(separator.stems, map(float, global_sdr(sources, estimates)), strict=True))
        spec = separator.model.spec
        if track.recording.strangers(spec.sample_rate, spec.channels):
            return sdr, None
        if spec.procedure.normalise is not None:
            levels = measure_levels(iter([mixture]), spec.procedure.normalise, spec.channels)
            mixture, sources = levels.normalised(mixture), levels.normalised(sources)
        return sdr, self._loss(separator.model.variables, mixture, sources)


class TrackLoss:
    """The objective of whole tracks as they are: in segments side by side, no dropout, nothing augmented."""

    def __init__(self, config: RunConfig) -> None:
        """Compiles nothing yet.

        Args:
            config: The run's config.
        """
        self._length, self._device = config.segment_length, jax.local_devices()[0]
        # As many as a device differentiates at a time, which fit into its memory.
        training = config.training
        self._batch_size = max(training.batch_size // (jax.device_count() * training.accumulation), 1)
        network = config.model.network()

        def losses(variables: Variables, batch: Batch) -> Any:
            _, evaluated = objective(
                variables.get("params", {}),
                variables.get("batch_stats", {}),
                batch,
                jax.random.key(0),
                model=network,
                spec=config.model,
                loss=config.loss,
                train=False,
            )
            return evaluated.examples

        self._losses = jax.jit(losses)

    def __call__(self, variables: Variables, mixture: HostWaveform, sources: HostSourceWaveform) -> float:
        """Returns the mean over segments.

        Args:
            variables: On the device.
            mixture: (time, channel); what is left after the last whole segment is not looked at. Silence follows a
                track that is shorter than a segment.
            sources: The true ones of the model's stems.
        """
        count = max(len(mixture) // self._length, 1)
        missing = max(self._length - len(mixture), 0)
        mixture = np.pad(mixture, ((0, missing), (0, 0)))
        sources = np.pad(sources, ((0, 0), (0, missing), (0, 0)))
        found: list[float] = []
        for first in range(0, count, self._batch_size):
            # The last batch is filled up by its last segment, so that all have one program.
            numbers = [min(first + place, count - 1) for place in range(self._batch_size)]
            parts = [slice(number * self._length, (number + 1) * self._length) for number in numbers]
            arrays = np.stack([mixture[part] for part in parts]), np.stack([sources[:, part] for part in parts])
            losses = jax.device_get(self._losses(variables, Batch(*jax.device_put(arrays, self._device))))
            found += losses[: count - first].tolist()
        return float(np.mean(found))


def middle(length: int, sample_rate: int, seconds: float | None) -> tuple[int, int]:
    """Returns start and length of at most so much of the middle of a track; of all of it for None."""
    kept = length if seconds is None else min(max(round(seconds * sample_rate), 1), length)
    return (length - kept) // 2, kept


@dataclass(frozen=True)
class Validation:
    """What the scores of a run have come to so far. It is saved with every checkpoint and goes on from there.

    Attributes:
        best_score: In dB; None before the first validation.
        best_step: After which it was.
        since_best: Validations since then.
        since_change: Validations since then, or since the learning rate was last reduced.
        reductions: Of the learning rate, by a plateau.
    """

    best_score: float | None = None
    best_step: int | None = None
    since_best: int = 0
    since_change: int = 0
    reductions: int = 0

    def after(self, step: int, scores: Scores, config: RunConfig) -> "tuple[Validation, float]":
        """Returns what it is after one more validation, and the factor of the learning rate from there on.

        Args:
            step: After which the validation was.
            scores: Scores and losses of the tracks.
            config: The run's config.
        """
        if self.best_score is None or scores.mean > self.best_score:
            after = dataclasses.replace(self, best_score=scores.mean, best_step=step, since_best=0, since_change=0)
        else:
            after = dataclasses.replace(self, since_best=self.since_best + 1, since_change=self.since_change + 1)
        schedule = config.optimizer.schedule
        if schedule.kind != "plateau":
            return after, 1.0
        assert schedule.patience is not None
        if after.since_change >= schedule.patience:
            after = dataclasses.replace(after, since_change=0, reductions=after.reductions + 1)
        return after, schedule.decay_rate**after.reductions

    def is_over(self, config: ValidationConfig) -> bool:
        """Whether the run ends because its score has not risen for as long as it may."""
        return config.patience is not None and self.since_best >= config.patience

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Validation":
        """Returns what `to_json` gave."""
        return cls(**data)
