"""What two sides separate when they are compared: excerpts of files and of tracks with true sources, or a made-up one.

Which stems come out of it is in parity.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxsep.errors import AudioError, ConfigError
from jaxsep.evaluation.tracks import AudioStream, TrueTrack, find_folder, find_folders, stem_file, summed, true_track
from jaxsep.models.ensemble import AnySpec
from jaxsep.typing import HostWaveform

MADE_UP = "noise and tones"
# Of the made-up mixture; every report states it.
SEED = 0


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a track.

    Attributes:
        name: Of the track.
        mixture: Samples (time, channel).
        sample_rate: In Hz.
        offset_seconds: Where it starts in the track.
        sources: The true sources by stem, as long as the mixture; all of the model's stems, or none.
        no_sources: Why there are none.
    """

    name: str
    mixture: HostWaveform
    sample_rate: int
    offset_seconds: float
    sources: dict[str, HostWaveform]
    no_sources: str | None


def find_tracks(inputs: Sequence[Path]) -> list[TrueTrack]:
    """Returns what inputs are, from their headers.

    Args:
        inputs: Audio files, .stem.mp4 files of MUSDB18, folders with a file for each true source as for `jaxsep
            evaluate --tracks`, or folders of such folders.

    Returns:
        Tracks; that of an audio file has a mixture and no parts.

    Raises:
        ConfigError: There is no such file, a folder holds no sources, or two tracks have one name.
        AudioError: A file is not audio.
    """
    tracks: list[TrueTrack] = []
    for path in inputs:
        if path.is_dir():
            track = find_folder(path)
            tracks += find_folders(path) if track is None else [track]
        elif path.name.endswith(".stem.mp4") and path.is_file():
            tracks.append(true_track(path.name.removesuffix(".stem.mp4"), stem_file(path)))
        elif path.exists():
            stream = AudioStream(path)
            tracks.append(TrueTrack(path.stem, {}, stream, *stream.format()))
        else:
            raise ConfigError(f"There is no file or folder '{path}'; give audio files, or folders of true sources.")
    names = [track.name for track in tracks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"Two of the tracks are called '{name}'; rename one, so that the report tells them apart."
            )
    return tracks


def read_excerpts(
    tracks: Iterable[TrueTrack], stems: Sequence[str], *, offset_seconds: float, seconds: float
) -> Iterator[Excerpt]:
    """Reads excerpts, one at a time.

    Args:
        tracks: What to read.
        stems: Of the model, for their true sources.
        offset_seconds: Where they start.
        seconds: How long they are at most; 0 for all.

    Raises:
        AudioError: A file cannot be decoded, or an excerpt is empty or silent.
    """
    for track in tracks:
        start = round(offset_seconds * track.sample_rate)
        length = round(seconds * track.sample_rate) or None
        mixture = _stretch(summed(track.mixture_streams()), start, length, track.channels)
        if not mixture.any():
            told = "is silent" if len(mixture) else "lies beyond its end"
            raise AudioError(f"The excerpt of '{track.name}' {told}; choose another by --offset and --seconds.")
        sources, reason = {}, None
        missing = [stem for stem in stems if stem not in track.parts]
        if not track.parts:
            reason = "its true sources are not known"
        elif missing and missing not in (["accompaniment"], ["other"]):
            reason = f"it has no true source for {', '.join(missing)}"
        else:
            for stem, streams in track.sources(stems).items():
                source = _stretch(summed(streams), start, length, track.channels)
                sources[stem] = np.pad(source[: len(mixture)], [(0, max(len(mixture) - len(source), 0)), (0, 0)])
        yield Excerpt(track.name, mixture, track.sample_rate, offset_seconds, sources, reason)


def made_up_excerpt(spec: AnySpec, seconds: float) -> Excerpt:
    """Returns decaying tones of a chord every half second over noise, different in every channel, peak 0.7.

    Args:
        spec: Of the model, whose sample rate and channels it has.
        seconds: How long it is.
    """
    rng = np.random.default_rng(SEED)
    time = np.arange(round(seconds * spec.sample_rate)) / spec.sample_rate
    since = time % 0.5
    mixture = 0.05 * rng.standard_normal((len(time), spec.channels))
    for tone_hz in (55.0, 110.0, 220.0, 277.2, 329.6, 440.0, 880.0, 1760.0, 3520.0):
        gains = rng.uniform(0.2, 1.0, spec.channels)
        sounding = np.exp(-since * rng.uniform(2, 12)) * np.sin(2 * np.pi * tone_hz * time)
        mixture += sounding[:, None] * gains if 2 * tone_hz < spec.sample_rate else 0
    mixture *= 0.7 / np.abs(mixture).max()
    return Excerpt(MADE_UP, mixture.astype(np.float32), spec.sample_rate, 0.0, {}, "its true sources are not known")


def _stretch(blocks: Iterator[HostWaveform], start: int, length: int | None, channels: int) -> HostWaveform:
    """Returns `length` samples of a stream from `start` on, or fewer where it ends; all of them for None."""
    parts, position, end = [np.zeros((0, channels), np.float32)], 0, None if length is None else start + length
    for block in blocks:
        parts.append(block[max(start - position, 0) : None if end is None else end - position])
        position += len(block)
        if end is not None and position >= end:
            break
    return np.concatenate(parts)
