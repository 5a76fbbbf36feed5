"""Tracks on disk: which files a track has, which of them make up which stem, and stretches of them as arrays.

Prepared folders are in prepared.py, MUSDB's layouts in musdb_layout.py, computed tracks in synthetic.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32

from jaxsep.audio import AudioInfo, AudioReader
from jaxsep.errors import AudioError, ConfigError, nearest
from jaxsep.models.spec import ModelSpec
from jaxsep.separation.inputs import AUDIO_SUFFIXES
from train.config import DataConfig

# What a track's mixture is called among its files.
MIXTURE = "mixture"
_MIXTURE_NAMES = ("mixture", "mix")
# Stems that are all that no other stem claims, where there is no file of their name.
_REMAINDERS = ("accompaniment", "other")
_TRAIN, _VALIDATION = "train", ("valid", "validation")

Parts = Float32[np.ndarray, "part time channel"]
Sources = Float32[np.ndarray, "source time channel"]
Samples = Float32[np.ndarray, "time channel"]


class Recording(Protocol):
    """A song with its sources, wherever they are."""

    @property
    def name(self) -> str:
        """Of the song."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the sources, and 'mixture' where that is there by itself."""
        ...

    @property
    def length(self) -> int:
        """Of the longest source, in samples."""
        ...

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...

    @property
    def channels(self) -> int:
        """Of every source."""
        ...

    def read(self, parts: Sequence[str], start: int, length: int) -> Parts:
        """Reads a stretch of some parts; what lies beyond the end of one is silence.

        Raises:
            AudioError: One of them cannot be read, or is not finite.
        """
        ...


class PartFile(NamedTuple):
    """Where a part is: a file, and which of its audio streams."""

    path: Path
    stream: int = 0


@dataclass(frozen=True)
class FileRecording:
    """A recording of one audio file for each part.

    Attributes:
        name: Of the song.
        files: By part.
    """

    name: str
    files: Mapping[str, PartFile]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the sources, and 'mixture' where that is there by itself."""
        return tuple(self.files)

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Samples of each part, as its header tells."""
        return {part: _length(info) for part, info in self._infos.items()}

    @property
    def length(self) -> int:
        """Of the longest source, in samples."""
        return max(length for part, length in self.lengths.items() if part != MIXTURE)

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self._one_for_all({part: info.sample_rate for part, info in self._infos.items()}, "Hz")

    @property
    def channels(self) -> int:
        """Of every source."""
        return self._one_for_all({part: info.channels for part, info in self._infos.items()}, "channels")

    def read(self, parts: Sequence[str], start: int, length: int) -> Parts:
        """Reads a stretch of some parts; what lies beyond the end of one is silence.

        Raises:
            AudioError: One of them cannot be read, or is not finite.
        """
        found = np.zeros((len(parts), length, self.channels), np.float32)
        rate = self.sample_rate
        for samples, part in zip(found, parts, strict=True):
            if start >= self.lengths[part]:
                continue
            path, stream = self.files[part]
            with AudioReader(
                path, offset_seconds=start / rate, duration_seconds=length / rate, stream=stream
            ) as reader:
                for block in reader.blocks(length):
                    samples[: len(block)] = block
                if reader.warning is not None and reader.truncated:
                    raise AudioError(reader.warning)
        return found

    @cached_property
    def _infos(self) -> dict[str, AudioInfo]:
        infos = {}
        for part, (path, stream) in self.files.items():
            with AudioReader(path, stream=stream) as reader:
                infos[part] = reader.info
        return infos

    def _one_for_all(self, values: Mapping[str, int], unit: str) -> int:
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{self.files[part].path} {value}" for part, value in values.items())
            raise ConfigError(f"The files of '{self.name}' differ in their {unit}: {listed}; prepare them anew alike.")
        return next(iter(values.values()))


@dataclass(frozen=True)
class Track:
    """A recording as a model hears it: its parts summed to the model's stems.

    Attributes:
        recording: The song.
        groups: The parts of each stem, in the model's order; then, where parts are left over, those.
        mixture_is_a_file: Whether the mixture is read, or is the sum of all sources.
    """

    recording: Recording
    groups: tuple[tuple[str, ...], ...]
    mixture_is_a_file: bool

    @property
    def name(self) -> str:
        """Of the song."""
        return self.recording.name

    @property
    def length(self) -> int:
        """In samples."""
        return self.recording.length

    def sources(self, start: int, length: int) -> Sources:
        """Reads a stretch of the sources: one for each group."""
        parts = [part for group in self.groups for part in group]
        found = self.recording.read(parts, start, length)
        ends = np.cumsum([len(group) for group in self.groups])
        return np.stack([each.sum(axis=0) for each in np.split(found, ends[:-1])])

    def mixture(self, start: int, length: int) -> Samples:
        """Reads a stretch of the mixture."""
        if self.mixture_is_a_file:
            return self.recording.read([MIXTURE], start, length)[0]
        return self.sources(start, length).sum(axis=0)


class Tracks(NamedTuple):
    """What a run learns from, and what it is validated on."""

    train: tuple[Track, ...]
    validation: tuple[Track, ...]


def find_tracks(config: DataConfig, model: ModelSpec) -> Tracks:
    """Finds the tracks of a dataset.

    Args:
        config: Which.
        model: What they are for: its stems, and of tracks that are computed the sample rate and channels.

    Raises:
        ConfigError: There are none, or a stem cannot be made of their files.
    """
    stems = model.stems
    train, validation = _find_recordings(config, model)
    if not train:
        raise ConfigError(f"{config.root} holds no tracks to train on; see configs/README.md for the layouts.")
    everything = (*train, *validation)
    chosen = [_groups(recording, stems, config) for recording in everything]
    if any(left for _, left in chosen):
        # The mixture is the sum of all; a track with nothing left over has silence there.
        groups = [(*of_stems, left) for of_stems, left in chosen]
    else:
        groups = [of_stems for of_stems, _ in chosen]
    from_file = config.mixture == "file"
    for recording in everything:
        if from_file and MIXTURE not in recording.parts:
            raise ConfigError(f"'{recording.name}' has no file of its mixture; use data.mixture 'sum'.")
    tracks = [Track(*each, from_file) for each in zip(everything, groups, strict=True)]
    return Tracks(tuple(tracks[: len(train)]), tuple(tracks[len(train) :]))


def find_recordings(root: Path, layout: str, validation: Sequence[str]) -> tuple[list[Recording], list[Recording]]:
    """Finds recordings below a folder, for training and for validation.

    Args:
        root: The folder.
        layout: As in `DataConfig`.
        validation: Names of those that are kept out of training; empty for what the layout says.

    Raises:
        ConfigError: The folder is not there or not of that layout, or a name is not there.
    """
    if not root.is_dir():
        raise ConfigError(f"There is no folder {root}; data.root is where the tracks are.")
    layout = _layout_of(root) if layout == "auto" else layout
    train: list[Recording]
    kept_out: list[Recording]
    if layout == "prepared":
        from train.prepared import open_prepared

        train, kept_out = open_prepared(root)
    elif layout in ("musdb18", "musdb18hq"):
        from train.musdb_layout import find_musdb

        train, kept_out = find_musdb(root, is_wav=layout == "musdb18hq")
    else:
        split = root / _TRAIN
        train = _in_folder(split if split.is_dir() else root)
        kept_out = [each for name in _VALIDATION if (root / name).is_dir() for each in _in_folder(root / name)]
    if not validation:
        return train, kept_out
    everything = {recording.name: recording for recording in (*train, *kept_out)}
    for name in validation:
        if name not in everything:
            raise ConfigError(f"data.validation_tracks: there is no track '{name}'.{nearest(name, everything)}")
    return (
        [recording for name, recording in everything.items() if name not in validation],
        [everything[name] for name in validation],
    )


def _find_recordings(config: DataConfig, model: ModelSpec) -> tuple[list[Recording], list[Recording]]:
    if config.layout == "synthetic":
        from train.synthetic import synthetic_recordings

        songs = synthetic_recordings(model.sample_rate, model.channels)
        return list(songs[0]), list(songs[1])
    assert config.root is not None
    return find_recordings(Path(config.root).expanduser(), config.layout, config.validation_tracks)


def _layout_of(root: Path) -> str:
    if (root / "dataset.json").is_file():
        return "prepared"
    split = root / _TRAIN
    if split.is_dir() and any(split.glob("*.stem.mp4")):
        return "musdb18"
    names = ("mixture", "vocals", "drums", "bass", "other")
    if split.is_dir() and any(
        all((folder / f"{name}.wav").is_file() for name in names) for folder in split.iterdir() if folder.is_dir()
    ):
        return "musdb18hq"
    return "folders"


def _in_folder(root: Path) -> list[Recording]:
    """A folder for each track, a file for each part, whose name is the part's."""
    recordings: list[Recording] = []
    for folder in sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")):
        files: dict[str, PartFile] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            part = MIXTURE if path.stem in _MIXTURE_NAMES else path.stem
            if part in files:
                raise ConfigError(f"{files[part].path} and {path} are both '{part}'; keep one of them.")
            files[part] = PartFile(path)
        if files.keys() - {MIXTURE}:
            recordings.append(FileRecording(folder.name, files))
    return recordings


def _groups(
    recording: Recording, stems: Sequence[str], config: DataConfig
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Returns the parts of each stem, and those that are left over."""
    there = [part for part in recording.parts if part != MIXTURE]
    groups: dict[str, tuple[str, ...]] = {}
    for stem in stems:
        wanted = config.stems.get(stem, (stem,))
        if stem in _REMAINDERS and stem not in config.stems and stem not in there:
            continue
        for part in wanted:
            if part not in there:
                raise ConfigError(
                    f"'{recording.name}' has no '{part}' for the stem '{stem}': it has {', '.join(there)}; add the "
                    "file, or say in data.stems which files make up the stem."
                )
        groups[stem] = wanted
    left = tuple(part for part in there if part not in _all(groups.values()))
    missing = [stem for stem in stems if stem not in groups]
    if len(missing) > 1 or (missing and not left):
        raise ConfigError(
            f"'{recording.name}' leaves nothing for the stem '{missing[-1]}': it has {', '.join(there)}; say in "
            "data.stems which files make it up."
        )
    if missing:
        groups[missing[0]], left = left, ()
    return tuple(groups[stem] for stem in stems), left


def _all(groups: Iterable[tuple[str, ...]]) -> set[str]:
    return {part for group in groups for part in group}


def _length(info: AudioInfo) -> int:
    if info.frames is not None:
        return info.frames
    if info.duration_seconds is None:
        raise ConfigError(f"{info.path} does not say how long it is; run `python -m train.prepare` on its folder.")
    return int(info.duration_seconds * info.sample_rate)
