"""What is looked at before a run: that tracks are there, are what the model takes, and can be read."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxsep.errors import AudioError, ConfigError
from train.config import RunConfig
from train.input_pipeline import read_length
from train.levels import Levels, warn_of_levels
from train.prepared import PreparedRecording
from train.recordings import MIXTURE, Recording, some_of, warn_of_lengths
from train.stretch import check_available
from train.tracks import Track, Tracks

# What is read of each file: so many stretches of half a second, spread over it. Of a file whose middle can only be
# decoded from its beginning on, one of them, half a minute in at most.
EXCERPTS = 8
EXCERPT_SECONDS = 0.5
_FARTHEST_SECONDS = 30.0
_READ = f"{EXCERPTS} excerpts of {EXCERPT_SECONDS} s of each file, or one where the middle is far from the beginning"
_BLOCK = 1 << 18


@dataclass(frozen=True)
class DatasetReport:
    """What was found.

    Attributes:
        splits: Of training and validation: how many tracks, how many hours.
        sources: Names of the sources of an example.
        sample_rate: In Hz.
        channels: Of each source.
        shortest_seconds: Length of the shortest track.
        read: What of the files was read.
        warnings: What should be known, a sentence each.
    """

    splits: dict[str, tuple[int, float]]
    sources: tuple[str, ...]
    sample_rate: int
    channels: int
    shortest_seconds: float
    read: str
    warnings: tuple[str, ...]

    def describe(self) -> str:
        """Returns it as a small table."""
        rows = [
            (split, f"{count} track{'s' * (count != 1)}", f"{hours:.2f} h")
            for split, (count, hours) in self.splits.items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
        lines.append(
            f"sources: {', '.join(self.sources)}; {self.sample_rate} Hz, {self.channels} channels; the shortest track "
            f"lasts {self.shortest_seconds:.1f} s; read: {self.read}"
        )
        return "\n".join(lines)


def check_tracks(tracks: Tracks, config: RunConfig, *, thorough: bool = False) -> DatasetReport:
    """Looks at all tracks.

    Args:
        tracks: Of the run.
        config: Of the run.
        thorough: Whether every sample is read, instead of excerpts.

    Raises:
        ConfigError: Nothing can be learned from them: there are none, there is none to validate on though that is
            wanted, they are of another format than the model's, are too short, or cannot be read.
    """
    every = (*tracks.train, *tracks.validation)
    _refuse_missing(tracks, config)
    _refuse_other_formats(every, config)
    _refuse_short(tracks.train, config)
    if config.augment.stretch:
        check_available()
    warnings = warn_of_lengths([track.recording for track in every])
    if len(tracks.train) == 1:
        warnings.append(f"There is one track to learn from, '{tracks.train[0].name}'; a model needs many.")
    slow = [track.name for track in tracks.train if not track.recording.seekable]
    if slow:
        warnings.append(
            f"Examples from {some_of(slow)} are decoded from the beginning of the file each time; run `python -m "
            "train.prepare` once to read them at once."
        )
    with ThreadPoolExecutor(config.data.threads) as pool:
        looked = list(pool.map(lambda track: _look(track.recording, config, thorough), every))
    warnings += [each for each in looked if isinstance(each, str)]
    levels = [each for each in looked if isinstance(each, Levels)]
    warnings += warn_of_levels(levels, "throughout" if thorough else "in what was read")
    hours = {
        split: (len(some), sum(track.length for track in some) / config.model.sample_rate / 3600)
        for split, some in (("train", tracks.train), ("validation", tracks.validation))
    }
    return DatasetReport(
        splits=hours,
        sources=tracks.names,
        sample_rate=config.model.sample_rate,
        channels=config.model.channels,
        shortest_seconds=min(track.length for track in tracks.train) / config.model.sample_rate,
        read="every sample" if thorough else _READ,
        warnings=tuple(warnings),
    )


def _refuse_missing(tracks: Tracks, config: RunConfig) -> None:
    if not tracks.train:
        raise ConfigError("No track is left to learn from; leave some out of data.validation_tracks.")
    if config.validation.every_steps is not None and not tracks.validation:
        raise ConfigError(
            "validation.every_steps asks for validation, and no track is kept for it: name some in "
            "data.validation_tracks, or make a folder 'valid' beside 'train'."
        )
    if config.data.mixture == "file":
        every = (*tracks.train, *tracks.validation)
        if without := [track.name for track in every if not track.recording.has_mixture]:
            raise ConfigError(f"data.mixture is 'file', and {some_of(without)} has none; use 'sum'.")


def _refuse_other_formats(tracks: Sequence[Track], config: RunConfig) -> None:
    rate, channels = config.model.sample_rate, config.model.channels
    if strangers := [each for track in tracks for each in track.recording.strangers(rate, channels)]:
        raise ConfigError(
            f"The model takes {rate} Hz and {channels} channels, and {some_of(strangers)} is something else; run "
            f"`python -m train.prepare --sample-rate {rate} --channels {channels}`, which converts."
        )


def _refuse_short(tracks: Sequence[Track], config: RunConfig) -> None:
    needed, rate = read_length(config), config.model.sample_rate
    if short := [f"{track.name} ({track.length / rate:.2f} s)" for track in tracks if track.length < needed]:
        raise ConfigError(
            f"An example takes {needed / rate:.2f} s, and {some_of(short)} is shorter; take it away, or lower "
            "data.segment_length."
        )


def _look(recording: Recording, config: RunConfig, thorough: bool) -> Levels | str:
    """Reads a recording, or some of it, and returns how loud it is, or why it cannot be read."""
    parts = [*recording.parts, MIXTURE] if recording.has_mixture else list(recording.parts)
    levels = Levels(recording)
    try:
        if thorough and isinstance(recording, PreparedRecording):
            recording.check_hash()
        for start, length in _all_of(recording) if thorough else _excerpts(recording):
            audio = recording.read(parts, start, length)
            if not np.isfinite(audio).all():
                raise AudioError(f"The track '{recording.name}' holds NaN or infinity.")
            levels.add(audio)
    except AudioError as error:
        if config.data.corrupt == "substitute":
            return str(error)
        raise ConfigError(
            f"{str(error).removesuffix('.')}; mend it, take the track away, or set data.corrupt to 'substitute'."
        ) from None
    return levels


def _excerpts(recording: Recording) -> Iterator[tuple[int, int]]:
    length = min(recording.length, round(EXCERPT_SECONDS * recording.sample_rate))
    last = recording.length - length
    if not recording.seekable:
        yield min(last // 2, round(_FARTHEST_SECONDS * recording.sample_rate)), length
        return
    for number in range(EXCERPTS):
        yield last * (2 * number + 1) // (2 * EXCERPTS), length


def _all_of(recording: Recording) -> Iterator[tuple[int, int]]:
    # A file whose middle is as far as its beginning is decoded once.
    block = _BLOCK if recording.seekable else recording.length
    for start in range(0, recording.length, block):
        yield start, min(block, recording.length - start)
