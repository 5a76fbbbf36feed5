"""The tracks of a run: what is found in a folder, by its layout, and which files make up which stem of the model.

How audio is read is in recordings.py and prepared.py; whether all of it fits the model, in dataset_check.py.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxsep.environment import expand_home
from jaxsep.errors import ConfigError, nearest
from jaxsep.evaluation.tracks import as_one_text
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.inputs import AUDIO_SUFFIXES
from train.config import DataConfig, Layout
from train.musdb_layout import find_musdb
from train.prepared import INDEX, find_prepared
from train.problems import Problems
from train.recordings import MIXTURE, AudioFile, FileRecording, Recording, open_recording
from train.stems import Assignment, assign, note_missing
from train.synthetic import TRACKS, SyntheticRecording

# What all files are summed into that belong to no stem, so that the mixture is the sum of all.
REST = "rest"

_MUSDB_FILES = {"mixture.wav", "bass.wav", "drums.wav", "other.wav", "vocals.wav"}
_VALIDATION_FOLDERS = ("valid", "validation")


@dataclass(frozen=True)
class Track:
    """A recording as sources of the model.

    Attributes:
        recording: The song.
        sources: Which of its parts are summed into each source: those of the model, in its order, and then perhaps one
            that is all else.
        mixture_is_file: Whether the mixture is the recording's own, and not the sum of the sources.
    """

    recording: Recording
    sources: tuple[tuple[str, ...], ...]
    mixture_is_file: bool = False

    @property
    def name(self) -> str:
        """What the song is called."""
        return self.recording.name

    @property
    def length(self) -> int:
        """Samples."""
        return self.recording.length

    def read(self, start: int, length: int, only: int | None = None) -> Float32[np.ndarray, "source time channel"]:
        """Returns a stretch of the sources.

        Args:
            start: The first sample.
            length: Samples; what lies beyond the end is silent.
            only: One source; None for all.

        Raises:
            AudioError: A file cannot be read.
        """
        sources = self.sources if only is None else self.sources[only : only + 1]
        parts = list(dict.fromkeys(part for source in sources for part in source))
        audio = self.recording.read(parts, start, length)
        if all(len(source) == 1 for source in sources) and len(parts) == len(sources):
            return audio
        summed = np.zeros((len(sources), *audio.shape[1:]), np.float32)
        for out, source in zip(summed, sources, strict=True):
            for part in source:
                out += audio[parts.index(part)]
        return summed

    def read_mixture(self, start: int, length: int) -> Float32[np.ndarray, "time channel"]:
        """Returns a stretch of the mixture: its file's, or the sum of the sources. As for `read`."""
        if self.mixture_is_file:
            return self.recording.read([MIXTURE], start, length)[0]
        return self.read(start, length).sum(axis=0)


@dataclass(frozen=True)
class Tracks:
    """What a run learns from.

    Attributes:
        train: What examples are cut out of.
        validation: What is separated whole and scored.
        names: Of the sources: the model's stems, and then perhaps 'rest'.
        notes: What should be known of how files were summed, a sentence each.
        is_complete: Whether none was left out for what is wrong with it.
    """

    train: tuple[Track, ...]
    validation: tuple[Track, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    is_complete: bool = True


@dataclass(frozen=True)
class Recordings:
    """What a folder holds.

    Attributes:
        train: Recordings to learn from.
        validation: Those kept out of it.
    """

    train: tuple[Recording, ...]
    validation: tuple[Recording, ...]


def find_tracks(data: DataConfig, model: ModelSpec, problems: Problems | None = None) -> Tracks:
    """Finds the tracks of a run.

    Args:
        data: Where they are, and what their files are.
        model: Whose stems they are for; of synthetic tracks, also whose sample rate and channels.
        problems: Takes what is wrong with single tracks, which are left out; None to raise it.

    Raises:
        ConfigError: There are none, a track has no file for a stem or lacks one that the others have, or a validation
            track does not exist.
        AudioError: A file is not audio.
    """
    met = Problems() if problems is None else problems
    before = len(met)
    if data.layout == "synthetic":
        found = _split(_synthetic(model, "train"), _synthetic(model, "validation"), data.validation_tracks, met)
    else:
        found = find_recordings(data, met)
    assigned: dict[Recording, Assignment] = {}
    for recording in (*found.train, *found.validation):
        with met.noted():
            assigned[recording] = assign(recording, data, model.stems)
    notes = note_missing(assigned, data, model.stems, met)
    has_rest = data.mixture == "sum" and any(each.rest for each in assigned.values())
    tracks = {
        recording: Track(recording, (*each.stems, each.rest) if has_rest else each.stems, data.mixture == "file")
        for recording, each in assigned.items()
    }
    if problems is None:
        met.refuse()
    return Tracks(
        tuple(tracks[recording] for recording in found.train if recording in tracks),
        tuple(tracks[recording] for recording in found.validation if recording in tracks),
        (*model.stems, REST) if has_rest else tuple(model.stems),
        notes,
        is_complete=len(met) == before,
    )


def find_recordings(data: DataConfig, problems: Problems | None = None) -> Recordings:
    """Finds what a folder holds.

    Args:
        data: Its root and layout, and the names of validation tracks.
        problems: As for `find_tracks`.

    Raises:
        ConfigError: There is no recording, two files go by one name, or a validation track does not exist.
        AudioError: A file is not audio.
    """
    met = Problems() if problems is None else problems
    before = len(met)
    root = expand_home(str(data.root))
    if not root.is_dir():
        raise ConfigError(f"data.root: there is no folder {root}.")
    layout = _layout(root) if data.layout == "auto" else data.layout
    train: Sequence[Recording]
    validation: Sequence[Recording]
    if layout == "prepared":
        train, validation = find_prepared(root, met)
    elif layout == "folders":
        train, validation = _folders(root, met)
    else:
        find = _musdb(root, met, is_wav=layout == "musdb18hq")
        train, validation = (find(None), ()) if data.validation_tracks else (find("train"), find("valid"))
    if not train and not validation and len(met) == before:
        raise ConfigError(f"data.root: there are no tracks in {root} (layout '{layout}'); see configs/README.md.")
    # Where a track is left out for what is wrong with it, its name is no mistake.
    found = _split(train, validation, data.validation_tracks, met, all_are_known=len(met) == before)
    if problems is None:
        met.refuse()
    return found


def _layout(root: Path) -> Layout:
    if (root / INDEX).is_file():
        return "prepared"
    if any(_visible(root / "train", ".stem.mp4")):
        return "musdb18"
    tracks = [track for track in _visible(root / "train") if track.is_dir()]
    files = [{file.name for file in track.iterdir()} for track in tracks]
    # Whoever has a folder of validation tracks does not want musdb's list.
    own_validation = any((root / name).is_dir() for name in _VALIDATION_FOLDERS)
    if files and not own_validation and all(each >= _MUSDB_FILES for each in files):
        return "musdb18hq"
    return "folders"


def _musdb(root: Path, problems: Problems, *, is_wav: bool) -> Callable[[str | None], list[FileRecording]]:
    return lambda split: find_musdb(root, problems, is_wav=is_wav, split=split)


def _folders(root: Path, problems: Problems) -> tuple[list[Recording], list[Recording]]:
    if (root / "train").is_dir():
        validation = [root / name for name in _VALIDATION_FOLDERS if (root / name).is_dir()]
        if len(validation) > 1:
            raise ConfigError(f"{root} has both 'valid' and 'validation' beside 'train'; keep one of them.")
        train = _tracks_in(root / "train", problems)
        return train, [track for folder in validation for track in _tracks_in(folder, problems)]
    return _tracks_in(root, problems, besides=("test", *_VALIDATION_FOLDERS)), []


def _tracks_in(folder: Path, problems: Problems, besides: Sequence[str] = ()) -> list[Recording]:
    found: list[Recording] = []
    for track in _visible(folder):
        if not track.is_dir() or track.name in besides:
            continue
        with problems.noted():
            if (files := _files_in(track)) and (recording := open_recording(as_one_text(track.name), files, problems)):
                found.append(recording)
    return found


def _files_in(track: Path) -> dict[str, AudioFile]:
    """Returns the audio files of a track by part: the name without ending, in small letters and in form NFC."""
    files: dict[str, AudioFile] = {}
    for path in _visible(track):
        if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file():
            continue
        part = as_one_text(path.stem).lower()
        part = MIXTURE if part == "mix" else part
        if part in files:
            raise ConfigError(f"{files[part].path} and {path} are both '{part}' of one track; take one of them away.")
        files[part] = AudioFile(path)
    return files if files.keys() != {MIXTURE} else {}


def _visible(folder: Path, ending: str = "") -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}.") from None
    return [folder / name for name in names if name.endswith(ending) and not name.startswith(".")]


def _synthetic(model: ModelSpec, split: str) -> list[Recording]:
    first = 0 if split == "train" else TRACKS["train"]
    return [
        SyntheticRecording(number, model.stems, sample_rate=model.sample_rate, channels=model.channels)
        for number in range(first, first + TRACKS[split])
    ]


def _split(
    train: Sequence[Recording],
    validation: Sequence[Recording],
    names: Sequence[str],
    problems: Problems,
    *,
    all_are_known: bool = True,
) -> Recordings:
    """Keeps tracks out of training by name; what the folder calls validation is that where no names are given."""
    trained = {as_one_text(recording.name) for recording in train}
    for twice in sorted(trained & {as_one_text(recording.name) for recording in validation}):
        problems.add(ConfigError(f"'{twice}' is among the tracks of training and among those of validation; keep one."))
    if not names:
        return Recordings(tuple(train), tuple(validation))
    names = [as_one_text(name) for name in names]
    known = {as_one_text(recording.name): recording for recording in (*train, *validation)}
    for name in [name for name in names if name not in known and all_are_known]:
        problems.add(ConfigError(f"data.validation_tracks: there is no track '{name}'.{nearest(name, known)}"))
    return Recordings(
        tuple(recording for recording in train if as_one_text(recording.name) not in names),
        tuple(known[name] for name in dict.fromkeys(names) if name in known),
    )
