"""A look at the tracks before the first step: what would only show after hours, or never, is told in a sentence now."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxsep.errors import AudioError, ConfigError
from train.config import RunConfig
from train.tracks import MIXTURE, FileRecording, Recording, Track, Tracks

# What is listened to of every track: so many stretches, of so many seconds each.
_EXCERPTS, _EXCERPT_SECONDS = 3, 2.0
_SILENT_DB, _SUM_DB = -80.0, -40.0


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        tracks: Of training.
        validation_tracks: Of validation.
        seconds: Of training, altogether.
        sample_rate: In Hz.
        channels: Of every source.
        stems: How often each set of files makes up the tracks.
        warnings: One sentence each.
    """

    tracks: int
    validation_tracks: int
    seconds: float
    sample_rate: int
    channels: int
    stems: dict[str, int]
    warnings: tuple[str, ...]

    def describe(self) -> str:
        """Returns it in a line."""
        parts = "; ".join(f"{count} with {names}" for names, count in self.stems.items())
        return (
            f"{self.tracks} tracks for training ({self.seconds / 60:.1f} minutes), {self.validation_tracks} for "
            f"validation, {self.sample_rate} Hz, channels {self.channels}: {parts}"
        )


def check_tracks(tracks: Tracks, config: RunConfig) -> Report:
    """Refuses tracks that a run cannot use, and says what is odd about the others.

    Headers of all files are read, and three excerpts of two seconds of every track; `train.prepare` looks at every
    sample.

    Args:
        tracks: As found.
        config: Of the run.

    Raises:
        ConfigError: Rate, channels or length do not fit the model, a stretch cannot be read, or there is nothing to
            validate on.
    """
    spec = config.model
    if config.validation.every_steps is not None and not tracks.validation:
        raise ConfigError(
            "There are no tracks to validate on: name some in data.validation_tracks, or set validation.every_steps to "
            "null."
        )
    needed = config.segment_length + config.augment.shift
    warnings = []
    for track in (*tracks.train, *tracks.validation):
        recording = track.recording
        for found, wanted, unit in (
            (recording.sample_rate, spec.sample_rate, "Hz"),
            (recording.channels, spec.channels, "channels"),
        ):
            if found != wanted:
                raise ConfigError(
                    f"'{track.name}' has {found} {unit} and the model needs {wanted}: convert all tracks with `python "
                    f"-m train.prepare ROOT OUT --sample-rate {spec.sample_rate} --channels {spec.channels}`."
                )
        warnings += _of_lengths(recording)
    for track in tracks.train:
        if track.length < needed:
            raise ConfigError(
                f"'{track.name}' lasts {track.length / spec.sample_rate:.2f} s, less than an example of "
                f"{needed / spec.sample_rate:.2f} s; take it out, or set data.segment_length."
            )
    for track in (*tracks.train, *tracks.validation):
        warnings += _of_excerpts(track, spec.stems)
    if len(tracks.train) == 1:
        warnings.append(f"'{tracks.train[0].name}' is the only track to learn from.")
    names = [each.name for each in tracks.train]
    if shared := sorted(set(names) & {each.name for each in tracks.validation}):
        warnings.append(f"'{shared[0]}' is both in training and in validation, whose scores will be too good.")
    counts = Counter(", ".join(part for part in each.recording.parts if part != MIXTURE) for each in tracks.train)
    return Report(
        tracks=len(tracks.train),
        validation_tracks=len(tracks.validation),
        seconds=sum(each.length for each in tracks.train) / spec.sample_rate,
        sample_rate=spec.sample_rate,
        channels=spec.channels,
        stems=dict(counts),
        warnings=tuple(warnings),
    )


def _of_lengths(recording: Recording) -> list[str]:
    if not isinstance(recording, FileRecording):
        return []
    lengths = {part: recording.lengths[part] for part in recording.parts}
    shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    difference = lengths[longest] - lengths[shortest]
    # Encoders of lossy formats pad by a frame or two.
    if difference <= 4096:
        return []
    return [
        f"{recording.files[shortest].path} is {difference / recording.sample_rate:.3f} s shorter than "
        f"{recording.files[longest].path}; silence is put in its place."
    ]


def _of_excerpts(track: Track, stems: Sequence[str]) -> list[str]:
    recording = track.recording
    length = min(track.length, round(_EXCERPT_SECONDS * recording.sample_rate))
    starts = np.linspace(0, track.length - length, _EXCERPTS + 2)[1:-1].astype(int)
    try:
        sources = np.concatenate([track.sources(int(start), length) for start in starts], axis=1)
        mixture = None
        if MIXTURE in recording.parts:
            mixture = np.concatenate([recording.read([MIXTURE], int(start), length)[0] for start in starts])
    except (AudioError, OSError) as error:
        raise ConfigError(f"'{track.name}' cannot be used: {error}") from None
    warnings = []
    for stem, source in zip(stems, sources, strict=False):
        if level_db(source) < _SILENT_DB:
            warnings.append(f"'{stem}' of '{track.name}' is silent in {_EXCERPTS} excerpts.")
    if mixture is not None:
        difference = level_db(mixture - sources.sum(axis=0)) - level_db(mixture)
        if difference > _SUM_DB:
            warnings.append(
                f"The stems of '{track.name}' do not sum to its mixture: they differ by {difference:.0f} dB of it."
            )
    return warnings


def level_db(samples: np.ndarray) -> float:
    """Returns the root mean square relative to full scale in dB, at least -200."""
    return 10 * float(np.log10(np.square(samples, dtype=np.float64).mean() + 1e-20))
