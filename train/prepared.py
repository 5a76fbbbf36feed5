"""The prepared form of a data set: decoded once, cut into blocks, so that any place of any track is near.

dataset.json tells of the tracks; each is one ArrayRecord file (https://github.com/google/array_record) that holds its
parts, block after block, and in each block part after part, as (time, channel) of int16 or float32. Who fills it is
prepare.py.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from jaxsep.config import Config
from jaxsep.errors import AudioError, ConfigError
from train.problems import Problems
from train.recordings import MIXTURE, Parts, Recording

INDEX = "dataset.json"
FORMAT_VERSION = 1
BLOCK_LENGTH = 1 << 16

Stored = Literal["int16", "float32"]
Split = Literal["train", "valid"]

# One record to a group and no compression: what is read is what was asked for. Riegeli's hash of each stays.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_FULL_SCALE = np.float32(2**15)


class TrackEntry(Config):
    """What dataset.json says of a track.

    Attributes:
        name: Name of the song.
        split: Whether it is trained on ('train') or validated on ('valid').
        parts: Names, in the order in which each block holds them; the mixture comes after them.
        has_mixture: Whether it is there.
        length: Samples.
        dtype: What samples are stored in; int16 is scaled by 2**-15.
        file: Its ArrayRecord, below the folder of dataset.json.
        size: Of the file, in bytes.
        sha256: Of the file.
    """

    name: str
    split: Split
    parts: tuple[str, ...]
    has_mixture: bool
    length: int = pydantic.Field(gt=0)
    dtype: Stored
    file: str
    size: int
    sha256: str


class DatasetIndex(Config):
    """What dataset.json holds.

    Attributes:
        format_version: Of this description.
        sample_rate: Of all tracks, in Hz.
        channels: Of all tracks.
        block_length: Samples of a block; the last one of a track is shorter.
        tracks: Sorted by name within each split.
    """

    format_version: int = FORMAT_VERSION
    sample_rate: int = pydantic.Field(gt=0)
    channels: int = pydantic.Field(gt=0)
    block_length: int = pydantic.Field(default=BLOCK_LENGTH, gt=0)
    tracks: tuple[TrackEntry, ...]


class PreparedRecording(Recording):
    """A recording in prepared form."""

    def __init__(self, folder: Path, index: DatasetIndex, entry: TrackEntry) -> None:
        """Looks whether the file has its size.

        Args:
            folder: Of dataset.json.
            index: What that says of all tracks.
            entry: What it says of this one.

        Raises:
            AudioError: The file is not there, or is not as long as it was.
        """
        self.path = folder / entry.file
        self.name, self.parts, self.has_mixture = entry.name, entry.parts, entry.has_mixture
        self.length, self.sample_rate, self.channels = entry.length, index.sample_rate, index.channels
        self._entry, self._block_length = entry, index.block_length
        self._stored = (*entry.parts, MIXTURE) if entry.has_mixture else entry.parts
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {error.strerror}; prepare the data again.") from None
        if size != entry.size:
            raise AudioError(f"{self.path} has {size} bytes and had {entry.size}; prepare the data again.")

    def read(self, parts: Sequence[str], start: int, length: int) -> Parts:
        """See `Recording.read`."""
        audio = np.zeros((len(parts), length, self.channels), np.float32)
        stop = min(start + length, self.length)
        if stop <= start or not parts:
            return audio
        blocks = range(start // self._block_length, -(-stop // self._block_length))
        columns = [self._stored.index(part) for part in parts]
        records = iter(self._records([block * len(self._stored) + column for block in blocks for column in columns]))
        for block in blocks:
            first = block * self._block_length
            inside = slice(max(start, first) - first, min(stop, first + self._block_length) - first)
            place = slice(first + inside.start - start, first + inside.stop - start)
            for out in audio:
                out[place] = np.frombuffer(next(records), self._entry.dtype).reshape(-1, self.channels)[inside]
        if self._entry.dtype == "int16":
            audio *= 1 / _FULL_SCALE
        return audio

    def check_hash(self) -> None:
        """Reads the whole file.

        Raises:
            AudioError: It is not what was written.
        """
        try:
            found = file_sha256(self.path)
        except OSError as error:
            raise AudioError(f"{self.path} cannot be read: {error.strerror}; prepare the data again.") from None
        if found != self._entry.sha256:
            raise AudioError(f"{self.path} is not what was written (its sha256 differs); prepare the data again.")

    def describe_part(self, part: str) -> str:
        """See `Recording.describe_part`."""
        return f"'{part}' in {self.path}"

    def _records(self, numbers: Sequence[int]) -> list[bytes]:
        from array_record.python.array_record_module import ArrayRecordReader

        # A reader for each call: it opens in 0.2 ms, and needs no agreement between threads.
        try:
            reader = ArrayRecordReader(str(self.path), _READER_OPTIONS)
            try:
                return reader.read(numbers)
            finally:
                reader.close()
        except (RuntimeError, ValueError, IndexError) as error:
            raise AudioError(f"{self.path} cannot be read ({_first_clause(error)}); prepare the data again.") from None


def find_prepared(root: Path, problems: Problems) -> tuple[list[PreparedRecording], list[PreparedRecording]]:
    """Returns the recordings of a prepared folder: those to learn from, and those kept out of it.

    Args:
        root: The folder.
        problems: Files that are not as long as they were are put aside there, and left out.

    Raises:
        ConfigError: It is no such folder.
    """
    path = root / INDEX
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; make it with `python -m train.prepare`.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); prepare the data again.") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(f"{path} has the format version {version}, and {FORMAT_VERSION} is read; prepare it again.")
    index = DatasetIndex.parse(data, where=str(path))
    recordings: dict[TrackEntry, PreparedRecording] = {}
    for entry in index.tracks:
        with problems.noted():
            recordings[entry] = PreparedRecording(root, index, entry)
    train = [recording for entry, recording in recordings.items() if entry.split == "train"]
    return train, [recording for entry, recording in recordings.items() if entry.split == "valid"]


@contextmanager
def array_record(path: Path) -> Iterator[Any]:
    """Opens an ArrayRecord for writing.

    Raises:
        OSError: The disk takes no more.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        raise OSError(_first_clause(error)) from None


def encode(block: np.ndarray, dtype: Stored) -> bytes:
    """Returns the record of a part of a block, (time, channel) in float32; within full scale where that is int16."""
    if dtype == "int16":
        return np.rint(block * _FULL_SCALE).astype(np.int16).tobytes()
    return np.ascontiguousarray(block, np.float32).tobytes()


def fits_int16(block: np.ndarray) -> bool:
    """Whether no sample would be clipped in 16 bits."""
    scaled = np.rint(block * _FULL_SCALE)
    return bool(scaled.max(initial=0) < _FULL_SCALE and scaled.min(initial=0) >= -_FULL_SCALE)


def file_sha256(path: Path) -> str:
    """Returns the hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_clause(error: Exception) -> str:
    """Returns what Riegeli says happened, without where in its own terms."""
    return str(error).split(";")[0].strip() or type(error).__name__
