"""The tracks that are evaluated: true sources and mixtures on disk, and the estimates that belong to them.

MUSDB18 and MUSDB18-HQ are found without musdb, whose package needs ffmpeg's programs. Only headers are read here, and
audio in stretches; nothing is scored.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxsep.audio.reader import AudioReader, probe
from jaxsep.errors import AudioError, ConfigError, nearest
from jaxsep.separation.inputs import AUDIO_SUFFIXES

MIXTURE = "mixture"
# The audio streams of a MUSDB18 .stem.mp4, in their order.
_STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")
_MP4 = ".stem.mp4"
# Stems that are, where there is no file of their name, the sum of what no other stem is.
_REMAINDERS = ("accompaniment", "other")
_BLOCK = 1 << 17

Waveform = Float32[np.ndarray, "time channel"]


@dataclass(frozen=True)
class AudioStream:
    """An audio stream of a file.

    Attributes:
        path: The file.
        stream: Number of the audio stream, counted from 0; None for the default one.
    """

    path: Path
    stream: int | None = None

    def format(self) -> tuple[int, int]:
        """Returns sample rate in Hz and channels, as the header says; see `jaxsep.audio.probe`.

        Raises:
            AudioError: It is not audio.
        """
        info = probe(self.path, self.stream)
        return info.sample_rate, info.channels

    def blocks(self) -> Iterator[Waveform]:
        """Yields the audio in blocks of one length, the last one shorter.

        Raises:
            AudioError: It cannot be decoded, or ends before it should.
        """
        with AudioReader(self.path, stream=self.stream) as reader:
            yield from reader.blocks(_BLOCK)
            if reader.truncated:
                raise AudioError(str(reader.warning))

    def state(self) -> list[int]:
        """Returns what tells that the file is another one than before: its size and time of change."""
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]


@dataclass(frozen=True)
class TrueTrack:
    """A song with its true sources.

    Attributes:
        name: Name of the song.
        parts: Its sources, by name.
        mixture: Its mixture; None where that is the sum of the parts.
        sample_rate: Sample rate of all waveforms in Hz.
        channels: Of all.
    """

    name: str
    parts: Mapping[str, AudioStream]
    mixture: AudioStream | None
    sample_rate: int
    channels: int

    def sources(self, stems: Sequence[str]) -> dict[str, tuple[AudioStream, ...]]:
        """Returns what is summed into each stem; see `summed_sources`."""
        return summed_sources(self.name, self.parts, stems)

    def mixture_streams(self) -> tuple[AudioStream, ...]:
        """Returns what is summed into the mixture."""
        return tuple(self.parts.values()) if self.mixture is None else (self.mixture,)


def summed_sources(
    track: str, parts: Mapping[str, AudioStream], stems: Sequence[str]
) -> dict[str, tuple[AudioStream, ...]]:
    """Returns what is summed into each stem: the file of its name, or for a remainder all that is no other stem.

    Args:
        track: What messages call it.
        parts: Its true sources.
        stems: That are asked for.

    Raises:
        ConfigError: There is nothing for a stem.
    """
    rest = tuple(stream for name, stream in parts.items() if name not in stems)
    found: dict[str, tuple[AudioStream, ...]] = {}
    for stem in stems:
        if stem in parts:
            found[stem] = (parts[stem],)
        elif stem in _REMAINDERS and rest:
            found[stem], rest = rest, ()
        else:
            raise ConfigError(
                f"The track '{track}' has no true source for the stem '{stem}', only {', '.join(parts)}; "
                "name the stems that it has with --stems."
            )
    return found


def stem_file(path: Path) -> dict[str, AudioStream]:
    """Returns the mixture and the sources of a .stem.mp4 of MUSDB18.

    Raises:
        ConfigError: It is not called so.
    """
    if not path.name.endswith(_MP4) or not path.is_file():
        raise ConfigError(f"'{path}' is neither a folder of true sources nor a file of MUSDB18 (*{_MP4}).")
    return {name: AudioStream(path, number) for number, name in enumerate(_STREAMS)}


def summed(streams: Sequence[AudioStream]) -> Iterator[Waveform]:
    """Yields the sum of streams, as long as the longest of them, in blocks of one length, the last one shorter.

    Raises:
        AudioError: One of them cannot be decoded.
    """
    running = [stream.blocks() for stream in streams]
    while running:
        blocks = [block for block in (next(each, None) for each in running) if block is not None]
        running = running if blocks else []
        if blocks:
            longest = max(blocks, key=len)
            total = longest.copy()
            for block in blocks:
                if block is not longest:
                    total[: len(block)] += block
            yield total


def find_musdb(root: Path, subset: str, *, is_wav: bool) -> list[TrueTrack]:
    """Returns the tracks of a subset of MUSDB18 (.stem.mp4), or of MUSDB18-HQ (folders of wav files), sorted by name.

    Args:
        root: The folder that holds 'train' and 'test'.
        subset: 'train' or 'test'.
        is_wav: Whether it is MUSDB18-HQ.

    Raises:
        ConfigError: There is none, or a file is missing.
        AudioError: A file is not audio.
    """
    folder = root / subset
    tracks = []
    for path in _entries(folder):
        if is_wav and path.is_dir():
            files = {name: AudioStream(path / f"{name}.wav") for name in _STREAMS}
            for stream in files.values():
                if not stream.path.is_file():
                    raise ConfigError(f"'{stream.path}' is missing, which every track of MUSDB18-HQ has.")
            tracks.append(true_track(as_one_text(path.name), files))
        elif not is_wav and path.name.endswith(_MP4):
            tracks.append(true_track(as_one_text(path.name).removesuffix(_MP4), stem_file(path)))
    if not tracks:
        kind = "folders of MUSDB18-HQ" if is_wav else f"files of MUSDB18 (*{_MP4})"
        other = "leave --hq out" if is_wav else "add --hq for MUSDB18-HQ"
        raise ConfigError(f"There are no {kind} in '{folder}'; name the folder above it with --musdb, or {other}.")
    return tracks


def find_folders(root: Path) -> list[TrueTrack]:
    """Returns the tracks of a folder that holds a folder for each, with an audio file for each source, named after it.

    A file 'mixture' is the mixture; where there is none, it is the sum of the sources.

    Raises:
        ConfigError: There is none, or two files go by one name.
        AudioError: A file is not audio, or the files of a track differ in rate or channels.
    """
    tracks = []
    for folder in _entries(root):
        if folder.is_dir() and (track := find_folder(folder)) is not None:
            tracks.append(track)
    if not tracks:
        raise ConfigError(f"There are no folders with audio files in '{root}'; make one for each track.")
    return tracks


def find_folder(folder: Path) -> TrueTrack | None:
    """Returns the track of one such folder, or None where there is no audio in it.

    Raises:
        ConfigError: It holds no sources, or two files go by one name.
        AudioError: A file is not audio, or the files differ in rate or channels.
    """
    files = audio_files(folder)
    if files.keys() == {MIXTURE}:
        raise ConfigError(f"'{folder}' holds a mixture and no true sources; add them, or take it away.")
    if not files:
        return None
    name = as_one_text(folder.name or folder.resolve().name)
    return true_track(name, {part: AudioStream(path) for part, path in files.items()})


def find_estimates(root: Path, track: str, subset: str | None) -> dict[str, AudioStream]:
    """Returns the estimates of a track by stem.

    Looked for in TRACK or SUBSET/TRACK, as museval and most programs write them, and in a folder 'mixture' in those or
    in TRACK.stem, as `jaxsep separate` does with MUSDB18.

    Args:
        root: The folder of all estimates.
        track: Which track.
        subset: Of the data set, or None.

    Raises:
        ConfigError: There are none.
    """
    above = [root] if subset is None else [root / subset, root]
    places = [
        _named(place, name) / inner for place in above for name in (track, f"{track}.stem") for inner in ("", MIXTURE)
    ]
    for place in places:
        if place.is_dir() and (files := audio_files(place)):
            files.pop(MIXTURE, None)
            return {name: AudioStream(path) for name, path in files.items()}
    names = [path.name for path in _entries(root) if path.is_dir()]
    raise ConfigError(
        f"There are no estimates of the track '{track}' in '{root}'; they belong in '{places[0]}'."
        + (nearest(track, names) if names else "")
    )


def _named(place: Path, name: str) -> Path:
    """The folder of this name, or of one that is the same text."""
    if (place / name).is_dir() or not place.is_dir():
        return place / name
    return next((path for path in _entries(place) if same_text(path.name, name)), place / name)


def audio_files(folder: Path) -> dict[str, Path]:
    """Returns the audio files of a folder by name, without the ending and in form NFC (`as_one_text`).

    Raises:
        ConfigError: Two have one name.
    """
    files: dict[str, Path] = {}
    for path in _entries(folder):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            if (name := as_one_text(path.stem)) in files:
                raise ConfigError(f"'{files[name]}' and '{path}' are both '{name}'; take one of them away.")
            files[name] = path
    return files


def true_track(name: str, files: Mapping[str, AudioStream]) -> TrueTrack:
    """Returns a track of its files by name, of which 'mixture' is the mixture.

    Raises:
        AudioError: A file is not audio, or they differ in rate or channels.
    """
    formats = {part: stream.format() for part, stream in files.items()}
    first = next(iter(formats))
    for part, found in formats.items():
        if found != formats[first]:
            raise AudioError(
                f"The track '{name}' has '{first}' in {describe(formats[first])} and '{part}' in {describe(found)}; "
                "give all its files one rate and as many channels."
            )
    parts = {part: stream for part, stream in files.items() if part != MIXTURE}
    return TrueTrack(name, parts, files.get(MIXTURE), *formats[first])


def same_text(one: str, other: str) -> bool:
    """Returns whether two names are the same text, however it is encoded; see `as_one_text`."""
    return as_one_text(one) == as_one_text(other)


def as_one_text(name: str) -> str:
    """Returns a name in Unicode's form NFC: 'é' may be one character, or a letter and its accent, as macOS has it."""
    return unicodedata.normalize("NFC", name)


def describe(found: tuple[int, int]) -> str:
    """Returns a sample rate and a number of channels in words."""
    rate, channels = found
    return f"{rate} Hz with {channels} channel{'s' * (channels != 1)}"


def _entries(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ConfigError(f"The folder '{folder}' cannot be read: {error.strerror}.") from None
    return [folder / name for name in names if not name.startswith(".")]
