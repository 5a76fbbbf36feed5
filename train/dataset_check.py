"""What is looked at before a run: that tracks are there, are what the model takes, are music, and can be read."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from jaxsep.errors import AudioError, ConfigError
from train.config import RunConfig
from train.input_pipeline import read_length, usable_tracks
from train.levels import Levels, warn_of_levels
from train.prepared import PreparedRecording
from train.problems import Problems
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
        sample_rate: Sample rate in Hz.
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


def check_tracks(
    tracks: Tracks, config: RunConfig, *, thorough: bool = False, problems: Problems | None = None
) -> DatasetReport:
    """Looks at all tracks.

    Args:
        tracks: Of the run.
        config: The run's config.
        thorough: Whether every sample is read, instead of excerpts.
        problems: What was met before; all that is wrong is raised together with it.

    Raises:
        ConfigError: Nothing can be learned from them: there are none, there is none to validate on though that is
            wanted, they are of another format than the model's, are too short, are no music by their level, or cannot
            be read. Where several things are wrong, it lists them.
        AudioError: One file cannot be read.
    """
    problems = Problems() if problems is None else problems
    every = (*tracks.train, *tracks.validation)
    _note_missing(tracks, config, problems)
    strangers = _note_other_formats(every, config, problems)
    usable = usable_tracks(tracks.train, config, problems)
    if tracks.train and not usable and config.data.short == "leave_out":
        problems.add(ConfigError("All tracks are shorter than an example, and data.short is 'leave_out'; use 'pad'."))
    if config.augment.stretch:
        with problems.noted():
            check_available()
    warnings = [*tracks.notes, *_warn_of_short(tracks.train, config)]
    warnings += warn_of_lengths([track.recording for track in every])
    if len(usable) == 1:
        warnings.append(f"There is one track to learn from, '{usable[0].name}'; a model needs many.")
    slow = [track.name for track in usable if not track.recording.seekable]
    if slow:
        warnings.append(
            f"Examples from {some_of(slow)} are decoded from the beginning of the file each time; run `python -m "
            "train.prepare` once to read them at once."
        )
    with ThreadPoolExecutor(config.data.threads) as pool:
        readable = [track.recording for track in every if track not in strangers]
        looked = list(pool.map(lambda recording: _look(recording, thorough), readable))
    for levels, errors in looked:
        for error in errors:
            if config.data.corrupt == "substitute":
                warnings.append(str(error))
            else:
                mend = "mend it, take the track away, or set data.corrupt to 'substitute'"
                problems.add(ConfigError(f"{str(error).removesuffix('.')}; {mend}."))
        for error in levels.errors:
            problems.add(error)
    warnings += warn_of_levels(
        [levels for levels, errors in looked if not errors], "throughout" if thorough else "in what was read"
    )
    problems.refuse()
    hours = {
        split: (len(some), sum(track.length for track in some) / config.model.sample_rate / 3600)
        for split, some in (("train", usable), ("validation", tracks.validation))
    }
    return DatasetReport(
        splits=hours,
        sources=tracks.names,
        sample_rate=config.model.sample_rate,
        channels=config.model.channels,
        shortest_seconds=min(track.length for track in usable) / config.model.sample_rate,
        read="every sample" if thorough else _READ,
        warnings=tuple(warnings),
    )


def _note_missing(tracks: Tracks, config: RunConfig, problems: Problems) -> None:
    # Where tracks are left out for what is wrong with them, these may be the ones.
    if not tracks.train and tracks.is_complete:
        problems.add(ConfigError("No track is left to learn from; leave some out of data.validation_tracks."))
    if config.validation.every_steps is not None and not tracks.validation and tracks.is_complete:
        problems.add(
            ConfigError(
                "validation.every_steps asks for validation, and no track is kept for it: name some in "
                "data.validation_tracks, or make a folder 'valid' beside 'train'."
            )
        )
    for track in (*tracks.train, *tracks.validation):
        if config.data.mixture == "file" and not track.recording.has_mixture:
            problems.add(ConfigError(f"data.mixture is 'file', and {track.name} has none; use 'sum'."))


def _note_other_formats(tracks: Sequence[Track], config: RunConfig, problems: Problems) -> set[Track]:
    """Returns the tracks that are of another format than the model's."""
    rate, channels = config.model.sample_rate, config.model.channels
    found = {track: track.recording.strangers(rate, channels) for track in tracks}
    for stranger in (each for strangers in found.values() for each in strangers):
        problems.add(
            ConfigError(
                f"The model takes {rate} Hz and {channels} channels, and {stranger} is something else; run `python -m "
                f"train.prepare --sample-rate {rate} --channels {channels}`, which converts."
            )
        )
    return {track for track, strangers in found.items() if strangers}


def _warn_of_short(tracks: Sequence[Track], config: RunConfig) -> list[str]:
    needed, rate = read_length(config), config.model.sample_rate
    short = [f"{track.name} ({track.length / rate:.2f} s)" for track in tracks if track.length < needed]
    if not short or config.data.short == "refuse":
        return []
    done = "left out" if config.data.short == "leave_out" else "padded with silence"
    return [f"Shorter than an example, which takes {needed / rate:.2f} s, and {done}: {some_of(short)}."]


def _look(recording: Recording, thorough: bool) -> tuple[Levels, list[AudioError]]:
    """Reads a recording, or some of it; returns how loud it is, and why which part of it cannot be read."""
    parts = [*recording.parts, MIXTURE] if recording.has_mixture else list(recording.parts)
    levels, errors = Levels(recording), dict[str, AudioError]()
    if thorough and isinstance(recording, PreparedRecording):
        try:
            recording.check_hash()
        except AudioError as error:
            return levels, [error]
    for start, length in _all_of(recording) if thorough else _excerpts(recording):
        audio = np.zeros((len(parts), length, recording.channels), np.float32)
        for out, part in zip(audio, parts, strict=True):
            if part in errors:
                continue
            try:
                out[:] = recording.read([part], start, length)[0]
                if not np.isfinite(out).all():
                    raise AudioError(f"{recording.describe_part(part)} holds NaN or infinity.")
            except AudioError as error:
                errors[part] = error
                out[:] = 0
        levels.add(audio)
    return levels, list(errors.values())


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
